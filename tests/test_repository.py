"""What the repository ships, and what it promises about it."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from service.runtime.catalog import Catalog, State, model_folders
from service.runtime.sessions import ExecutionPlan, Provider
from training.recipe import load_recipe

ROOT = Path(__file__).parents[1]
SHIPPED = sorted(model_folders(ROOT / "models"))


def test_every_model_that_ships_is_ready_small_and_made_by_a_recipe_that_ships():
    catalog = Catalog(ROOT / "models", Provider.CPU, ExecutionPlan(1, 1, 8))
    catalog.load()
    assert {"dcgan-fashion", "gan-mnist"} <= set(catalog.names())
    for entry in catalog.entries:
        assert entry.state is State.READY, entry.reason
        recipe = load_recipe(entry.manifest.provenance.recipe)
        assert entry.manifest.latent.dimension == recipe.generator.z_dim
        assert entry.manifest.provenance.images >= 0.99 * recipe.train.images


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda f: f"{f.parent.name}@{f.name}")
def test_a_model_that_ships_has_its_preview_and_card_and_small_graphs(folder):
    assert (folder / "preview.webp").stat().st_size > 0
    assert "Training data" in (folder / "README.md").read_text()
    for graph in folder.glob("*.onnx"):
        assert graph.stat().st_size < 16 * 2**20


def test_the_files_that_users_look_for_are_there():
    for name in ("README.md", "LICENSE", "CHANGELOG.md", "Makefile", "pyproject.toml"):
        assert (ROOT / name).is_file()
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_make_help_lists_every_target():
    listed = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in phony.group(1).split():
        assert f"\n{target} " in f"\n{listed}"
