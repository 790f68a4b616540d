# `make help` lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 3000
# Also applies to the build environment, so that all versions come from one file.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

SHIPPED := gan-mnist dcgan-fashion cgan-fashion wgan-gp-mnist biggan-flowers stylegan2-flowers \
  stylegan2-flowers-64
IMAGE_TO_IMAGE := sketch2emoji colorize-flowers esrgan-flowers inpaint-flowers cyclegan-emoji
TEXT := seqgan-emoji
FROM_TEXT := text2emoji
SOUND := wavegan-digits
SHIPPED += $(IMAGE_TO_IMAGE) $(FROM_TEXT) $(TEXT) $(SOUND)
# Measured at export: class accuracy, the distance to the real images, or figures of texts.
MEASURED := cgan-fashion biggan-flowers stylegan2-flowers stylegan2-flowers-64 $(IMAGE_TO_IMAGE) \
  $(FROM_TEXT) $(TEXT) $(SOUND)
RUNS ?= runs/zoo

BENCHES := serving scaling overhead encoding export quantized training startup offline liveness gpu
PEERS := fastapi litserve triton bentoml ray
# Triton's wheel is linked against Debian's Python.
SYSTEM_PYTHON ?= /usr/bin/python3

.PHONY: help install serve test test-browser test-slow test-faults bench bench-peers bench-smoke gpu-check lint format docs docs-images zoo measure zoo-page bento protobuf lock clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

install: $(VENV)/.dev ## Install everything into .venv, training included

serve: $(VENV)/.base ## Install what serving needs and serve the included models
	$(BIN)/ganymede serve --port $(PORT) --models models

test: $(VENV)/.dev ## Run the tests
	$(BIN)/pytest -n auto -m "not slow and not faults" --ignore tests/browser
	$(MAKE) --no-print-directory test-browser

test-browser: $(VENV)/.dev ## Run the tests of the web pages in Chromium (apt install chromium)
	$(BIN)/pytest -m "not slow" tests/browser

test-slow: $(VENV)/.dev ## Run the tests that take long by nature: training runs, resume, packaging
	$(BIN)/pytest -n auto -m "slow and not faults"

test-faults: $(VENV)/.dev ## Run many rounds of fault injection (minutes)
	$(BIN)/pytest tests/faults

bench: $(VENV)/.dev ## Run all benchmarks (half an hour); needs wrk
	for bench in $(BENCHES); do $(BIN)/python -m benchmarks.$$bench || exit 1; done

bench-peers: ## Install the servers that benchmarks.serving compares with
	for peer in $(PEERS); do \
		python=$(PYTHON); [ $$peer = triton ] && python=$(SYSTEM_PYTHON); \
		$$python -m venv benchmarks/.peers/$$peer && PIP_CONSTRAINT= \
		benchmarks/.peers/$$peer/bin/pip install --quiet -r benchmarks/peers/$$peer.txt || exit 1; \
	done

bench-smoke: $(VENV)/.dev ## Check the service's CPU time, and the GPU check in tiny sizes on the CPU (minutes)
	$(BIN)/python -m benchmarks.smoke
	$(BIN)/python -m benchmarks.gpu_check --dry-run

gpu-check: ## Install, test and measure on a CUDA device (12 minutes); WHEELS=DIR needs no index
	$(PYTHON) -m benchmarks.gpu_check $(if $(WHEELS),--wheels $(WHEELS))

lint: $(VENV)/.dev ## Check format, lint, types and import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev ## Format the code and apply lint fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.dev ## Build the documentation site into build/site; a broken link is an error
	$(BIN)/python -m scripts.documentation

docs-images: $(VENV)/.dev ## Make the images of the README from the included models
	$(BIN)/python -m scripts.documentation.images

zoo: $(VENV)/.dev ## Train and export all included models again (hours), into RUNS
	for recipe in $(SHIPPED); do \
		case " $(MEASURED) " in *" $$recipe "*) measure=--measure;; *) measure=;; esac; \
		$(BIN)/ganymede train $$recipe --out $(RUNS)/$$recipe && \
		$(BIN)/ganymede export $(RUNS)/$$recipe --name $$recipe --models models $$measure || exit 1; \
	done

# Text models are measured at export alone, because their runs contain the maximum-likelihood
# generators that stand beside them on their cards.
measure: $(VENV)/.dev ## Measure all included models again (an hour)
	for model in $(filter-out $(TEXT),$(SHIPPED)); do \
		$(BIN)/ganymede evaluate $$model --models models --record || exit 1; \
	done

zoo-page: $(VENV)/.dev ## Write docs/zoo.md from the manifests and time the models
	$(BIN)/python scripts/zoo_page.py

bento: $(VENV)/.base ## Build a Bento with the service and the models
	$(BIN)/bentoml build

protobuf: $(VENV)/.dev ## Compile the .proto files of the gRPC services
	$(BIN)/python -m scripts.protobuf

lock: ## Pin the newest versions that fit: constraints.txt, requirements.txt
	$(PYTHON) scripts/lock.py

clean: ## Remove the environment and the caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --quiet -e .
	touch $@

# Includes the base installation, so that a later `make serve` starts at once.
$(VENV)/.dev: pyproject.toml client/pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --quiet -e '.[train,quality,hub,dev]' -e ./client
	touch $(VENV)/.base $@
