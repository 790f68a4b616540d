# `make help` lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 3000
# Also for what builds the package itself, so that every version comes from one file.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

SHIPPED := gan-mnist dcgan-fashion cgan-fashion wgan-gp-mnist biggan-flowers stylegan2-flowers
FROM_PICTURES := sketch2emoji colorize-flowers esrgan-flowers inpaint-flowers cyclegan-emoji
SHIPPED += $(FROM_PICTURES)
# What is measured when it is exported: how well classes are obeyed, or how near the true pictures are.
MEASURED := cgan-fashion biggan-flowers stylegan2-flowers $(FROM_PICTURES)
RUNS ?= runs/zoo

BENCHES := serving encoding export quantized training startup offline gpu
PEERS := fastapi litserve triton bentoml ray
# Debian's own: the one that Triton's wheel is linked with.
SYSTEM_PYTHON ?= /usr/bin/python3

.PHONY: help install serve test test-faults bench bench-peers bench-smoke lint format zoo measure zoo-page bento lock clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

install: $(VENV)/.dev ## Install everything into .venv, training included

serve: $(VENV)/.base ## Install what serving needs and serve the models that ship
	$(BIN)/ganymede serve --port $(PORT) --models models

test: $(VENV)/.dev ## Install what the tests need and run them
	$(BIN)/pytest -n auto -m "not faults"

test-faults: $(VENV)/.dev ## Break the service in every way, many times over (minutes)
	$(BIN)/pytest tests/faults

bench: $(VENV)/.dev ## Measure what we claim about speed (half an hour); needs wrk
	for bench in $(BENCHES); do $(BIN)/python -m benchmarks.$$bench || exit 1; done

bench-peers: ## Install what the serving bench compares with, each into its own environment
	for peer in $(PEERS); do \
		python=$(PYTHON); [ $$peer = triton ] && python=$(SYSTEM_PYTHON); \
		$$python -m venv benchmarks/.peers/$$peer && PIP_CONSTRAINT= \
		benchmarks/.peers/$$peer/bin/pip install --quiet -r benchmarks/peers/$$peer.txt || exit 1; \
	done

bench-smoke: $(VENV)/.dev ## Check that most of the service's CPU time is inference (a minute)
	$(BIN)/python -m benchmarks.smoke

lint: $(VENV)/.dev ## Check format, lint, types and the dependency rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev ## Format the code and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

zoo: $(VENV)/.dev ## Train again everything that ships (hours), into RUNS, and export it
	for recipe in $(SHIPPED); do \
		case " $(MEASURED) " in *" $$recipe "*) measure=--measure;; *) measure=;; esac; \
		$(BIN)/ganymede train $$recipe --out $(RUNS)/$$recipe && \
		$(BIN)/ganymede export $(RUNS)/$$recipe --name $$recipe --models models $$measure || exit 1; \
	done

measure: $(VENV)/.dev ## Measure everything that ships again (an hour), into manifests and cards
	for model in $(SHIPPED); do \
		$(BIN)/ganymede evaluate $$model --models models --record || exit 1; \
	done

zoo-page: $(VENV)/.dev ## Write docs/zoo.md from the manifests, and time the models here
	$(BIN)/python scripts/zoo_page.py

bento: $(VENV)/.base ## Build a Bento that holds the service and the models
	$(BIN)/bentoml build

lock: ## Pin the newest versions that fit: constraints.txt, requirements.txt
	$(PYTHON) scripts/lock.py

clean: ## Remove the environment and the caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --quiet -e .
	touch $@

# Holds the base too, so that `make serve` after it starts at once.
$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --quiet -e '.[train,quality,hub,dev]'
	touch $(VENV)/.base $@
