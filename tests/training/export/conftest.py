"""Training runs and model folders for the export tests, which only read them."""

from __future__ import annotations

import pytest

from tests.support.fp16_models import write_model
from tests.support.tiny_recipes import TINY
from training.export import onnx_files
from training.export.exporter import export_run
from training.recipe.loading import load_recipe
from training.run import Run
from training.trainer import train


@pytest.fixture(scope="package")
def run(tmp_path_factory, digits) -> Run:
    """A finished run of a DCGAN."""
    run = Run(tmp_path_factory.mktemp("runs") / "small")
    overrides = [*TINY["dcgan-fashion"], f"data.path={digits}", "generator.width=16"]
    train(load_recipe("dcgan-fashion", overrides), run)
    return run


@pytest.fixture(scope="package")
def exported(run, tmp_path_factory):
    """The model folder of `run`."""
    return export_run(run, "garments", tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="package")
def float32_folder(tmp_path_factory):
    """A model folder with its weights in the graph, as float32."""
    return write_model(tmp_path_factory.mktemp("float32"))


@pytest.fixture(scope="package")
def external_folder(tmp_path_factory):
    """The same model with external weights, as if the limit of 2 GiB were 4 KiB."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_files, "MAX_WEIGHT_BYTES", 4096)
        return write_model(tmp_path_factory.mktemp("external"))
