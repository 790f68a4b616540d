"""What many tests stand on: pictures, a small run, a model repository, a server."""

import os

# Several test processes share few cores; more threads than cores make all of them slow.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Servers of tests start at once, and by the same plans on every machine.
os.environ.setdefault("GANYMEDE_PLAN", "default")

import contextlib
import shutil
from pathlib import Path

import pytest

from tests.support.images import write_idx
from tests.support.servers import Server, serving

# The smallest versions of the two recipes that still are what they say: seconds, not minutes.
TINY = {
    "gan-mnist": ["generator.widths=[32]", "discriminator.widths=[16]", "train.images=640"],
    "dcgan-fashion": ["generator.width=8", "discriminator.width=8", "train.images=640"],
    "cgan-fashion": ["generator.width=8", "discriminator.width=8", "train.images=640"],
}


@pytest.fixture(autouse=True, scope="session")
def _cache_of_its_own(tmp_path_factory):
    """Decoded pictures of the tests stay out of the user's cache."""
    os.environ["GANYMEDE_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Path:
    """600 drawn digits in MNIST's format."""
    folder = tmp_path_factory.mktemp("digits")
    write_idx(folder, count=600)
    return folder


def train_and_export(recipe: str, overrides: list[str], runs: Path, models: Path) -> None:
    from training.export.exporter import export_run
    from training.recipe.schema import load_recipe
    from training.run import Run
    from training.trainer import train

    run = Run(runs / recipe)
    train(load_recipe(recipe, overrides), run)
    export_run(run, recipe, models)


@pytest.fixture(scope="session")
def repository(tmp_path_factory, digits) -> Path:
    """A models folder with both recipes' generators, tiny and barely trained."""
    runs, models = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("repository")
    for name, overrides in TINY.items():
        train_and_export(name, [*overrides, f"data.path={digits}"], runs, models)
    return models


@pytest.fixture(scope="session")
def slow_repository(tmp_path_factory, digits) -> Path:
    """One model, so wide that 256 of its pictures keep the service busy for a second or more."""
    runs, models = tmp_path_factory.mktemp("slow-runs"), tmp_path_factory.mktemp("slow")
    wide = ["generator.width=320", "discriminator.width=8", "train.images=16", "train.batch=8"]
    train_and_export("dcgan-fashion", [*wide, f"data.path={digits}"], runs, models)
    return models


@pytest.fixture
def models(tmp_path, repository) -> Path:
    """A copy of the repository that a test may spoil."""
    return Path(shutil.copytree(repository, tmp_path / "models"))


@pytest.fixture(scope="session")
def server(repository) -> Server:
    """The real service with the whole repository; a test may not stop it."""
    with contextlib.ExitStack() as stack:
        yield stack.enter_context(serving(repository))
