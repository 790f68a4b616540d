"""Runs and models to fine-tune; the tests only read them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.export.exporter import export_run
from training.recipe.loading import load_recipe
from training.run import Run
from training.trainer import train

# The smallest StyleGAN2 that has all of its layers.
SMALL = (
    "generator.width=4",
    "generator.most=8",
    "generator.z_dim=8",
    "generator.w_dim=8",
    "generator.mapping_layers=1",
    "generator.class_width=4",
    "discriminator.width=4",
    "discriminator.most=8",
    "train.batch=4",
    "train.images=8",
    "device.device=cpu",
)


def write_classes(folder: Path, names, count: int = 4) -> Path:
    """Write images of random colors, one folder per class."""
    rng = np.random.default_rng(0)
    for name in names:
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="package")
def source_data(tmp_path_factory) -> Path:
    return write_classes(tmp_path_factory.mktemp("source"), ["daisy", "rose", "tulip"])


@pytest.fixture(scope="package")
def other_data(tmp_path_factory) -> Path:
    """Images of other classes, one of which the source has too."""
    return write_classes(tmp_path_factory.mktemp("other"), ["cat", "dog", "rose", "ship"])


@pytest.fixture(scope="package")
def small_recipe(source_data):
    """Return a function that loads a small recipe of the source's data, with more overrides."""

    def load(*overrides):
        defaults = [
            "classes=3",
            "license=Apache-2.0",
            f"data.path={source_data}",
            "data.resolution=16",
        ]
        return load_recipe("stylegan2-flowers", [*SMALL, *defaults, *overrides])

    return load


@pytest.fixture(scope="package")
def source_run(tmp_path_factory, small_recipe) -> Run:
    run = Run(tmp_path_factory.mktemp("runs") / "source")
    train(small_recipe(), run)
    return run


@pytest.fixture(scope="package")
def source_model(tmp_path_factory, source_run) -> Path:
    models = tmp_path_factory.mktemp("models")
    return export_run(source_run, "source", models, trainable=True)
