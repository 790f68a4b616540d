"""Fixtures that several packages share: images, model repositories, servers."""

import os

# Several test processes share few cores: more threads than cores would slow all of them down.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Default execution plans: servers start faster, and behave equally on every machine.
os.environ.setdefault("GANYMEDE_PLAN", "default")
# Tests of several processes set this themselves.
os.environ.setdefault("GANYMEDE_PROCESSES", "1")

import contextlib
import shutil
from pathlib import Path

import pytest

from tests.support.drawn_models import write_models, write_painted
from tests.support.images import write_idx
from tests.support.latent_models import write_latent_models
from tests.support.output_models import write_output_models, write_preview
from tests.support.servers import Server, serving
from tests.support.tiny_recipes import TINY


@pytest.fixture(autouse=True, scope="session")
def _private_cache(tmp_path_factory):
    """Use a temporary cache folder instead of the user's cache."""
    os.environ["GANYMEDE_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Path:
    """600 drawn digits in MNIST's file format."""
    folder = tmp_path_factory.mktemp("digits")
    write_idx(folder, count=600)
    return folder


def train_and_export(recipe: str, overrides: list[str], runs: Path, models: Path) -> None:
    from training.export.exporter import export_run
    from training.recipe.loading import load_recipe
    from training.run import Run
    from training.trainer import train

    run = Run(runs / recipe)
    train(load_recipe(recipe, overrides), run)
    export_run(run, recipe, models)


@pytest.fixture(scope="session")
def repository(tmp_path_factory, digits) -> Path:
    """A model repository with the generators of the tiny recipes, trained for a few steps.

    The digits stand for the data sets of the recipes, so that the models have their class names.
    """
    runs, models = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("repository")
    data = tmp_path_factory.mktemp("known")
    for name in ("mnist", "fashion-mnist"):
        (data / name).symlink_to(digits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GANYMEDE_DATA", str(data))
        for name, overrides in TINY.items():
            train_and_export(name, overrides, runs, models)
    return models


@pytest.fixture(scope="session")
def slow_repository(tmp_path_factory, digits) -> Path:
    """A wide model that needs at least a second for 256 images."""
    runs, models = tmp_path_factory.mktemp("slow-runs"), tmp_path_factory.mktemp("slow")
    wide = ["generator.width=320", "discriminator.width=8", "train.images=16", "train.batch=8"]
    train_and_export("dcgan-fashion", [*wide, f"data.path={digits}"], runs, models)
    return models


@pytest.fixture
def models(tmp_path, repository) -> Path:
    """A copy of the repository that a test may change."""
    return Path(shutil.copytree(repository, tmp_path / "models"))


@pytest.fixture(scope="session")
def server(repository) -> Server:
    """The real service with the whole repository. Tests must not stop it."""
    with contextlib.ExitStack() as stack:
        yield stack.enter_context(serving(repository))


@pytest.fixture(scope="session")
def drawn_repository(tmp_path_factory) -> Path:
    """A model repository with the models of drawn_models.py and latent_models.py."""
    models = tmp_path_factory.mktemp("drawn")
    write_models(models)
    write_latent_models(models)
    return models


@pytest.fixture(scope="session")
def output_repository(tmp_path_factory) -> Path:
    """A model repository with the models of output_models.py, and one of images."""
    models = tmp_path_factory.mktemp("outputs")
    write_output_models(models)
    write_painted(models / "painted" / "1", ["z"])
    write_preview(models / "painted" / "1")
    return models


@pytest.fixture(scope="session")
def output_server(output_repository, tmp_path_factory) -> Server:
    """The real service with `output_repository`. Tests must not stop it."""
    env = {"GANYMEDE_JOBS": str(tmp_path_factory.mktemp("output-jobs"))}
    with serving(output_repository, env=env) as server:
        yield server


@pytest.fixture(scope="session")
def drawn_server(drawn_repository) -> Server:
    """The real service with `drawn_repository`. Tests must not stop it."""
    with contextlib.ExitStack() as stack:
        yield stack.enter_context(serving(drawn_repository))
