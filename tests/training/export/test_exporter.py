"""The export of training runs."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from service.cli.main import app
from service.runtime.latent import seeds
from service.runtime.models.manifest import MANIFEST_FILE, read_manifest
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from tests.support.tiny_recipes import TINY
from training.checkpoints import Checkpoint, CheckpointError
from training.cli.export import export
from training.evaluation.errors import QualityError
from training.evaluation.features import classifier
from training.evaluation.metrics import class_accuracy
from training.export.errors import ExportError
from training.export.exporter import export_run, load_generator
from training.preview.grids import to_pixels
from training.recipe.errors import RecipeError
from training.recipe.loading import load_recipe
from training.run import Run
from training.trainer import train

PLAN = ExecutionPlan(1, 1, 64)


@pytest.fixture(scope="module")
def conditional_run(tmp_path_factory, digits) -> Run:
    run = Run(tmp_path_factory.mktemp("runs") / "conditional")
    train(load_recipe("cgan-fashion", [*TINY["cgan-fashion"], f"data.path={digits}"]), run)
    return run


def test_same_run_gives_same_digest(run, exported, tmp_path):
    again = export_run(run, exported.parent.name, tmp_path)
    assert again.name == exported.name == "1"
    assert read_manifest(again).digest == read_manifest(exported).digest


def test_rejects_folders_without_run_or_checkpoint(tmp_path):
    with pytest.raises(RecipeError, match="is not a run folder"):
        export_run(Run(tmp_path), "x", tmp_path / "models")
    run = Run(tmp_path / "begun")
    run.open(load_recipe("gan-mnist"))
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        export_run(run, "x", tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_failed_check_leaves_no_folder(run, tmp_path, monkeypatch):
    monkeypatch.setattr("training.export.onnx_export.TOLERANCE", -1.0)
    with pytest.raises(ExportError, match="differs from PyTorch's by"):
        export_run(run, "garments", tmp_path / "models")
    assert not list((tmp_path / "models").iterdir())


def test_exports_the_averaged_generator(run, exported):
    generator = load_generator(run.recipe(), Checkpoint.load(run.checkpoint_path))
    with torch.no_grad():
        expected = to_pixels(generator(torch.from_numpy(seeds.draw(range(4), 100))))
    pixels = Model(exported, Provider.CPU, PLAN).generate(range(4))
    assert np.abs(pixels.astype(int) - expected.astype(int)).max() <= 1


def test_manifest_contains_the_provenance(run, exported):
    provenance = json.loads((exported / MANIFEST_FILE).read_text())["provenance"]
    assert provenance["recipe"] == "dcgan-fashion"
    # The recipe's data set does not count, because the data came from a path.
    assert provenance["dataset"] == run.recipe().data.dataset_title != "Fashion-MNIST"
    assert provenance["dataset_license"] == "unknown"
    (data,) = provenance["data"]
    assert "name" not in data
    assert data["fingerprint"] == run.provenance().data[0].fingerprint
    card = (exported / "README.md").read_text()
    assert data["fingerprint"] in card
    assert "set data.license in the recipe" in card
    assert "set license in the recipe" in card
    assert "garments." not in card
    assert provenance["turns"] == provenance["images"] // 128
    assert provenance["seconds"] > 0
    assert provenance["device"]
    assert provenance["code_revision"]
    assert read_manifest(exported).license == run.recipe().license


@pytest.mark.slow
def test_measured_quality_is_in_manifest_and_card(conditional_run, tmp_path, monkeypatch):
    quick = partial(classifier.ClassifierSettings, width=4, images=500)
    monkeypatch.setattr(classifier, "ClassifierSettings", quick)
    arguments = ["export", str(conditional_run.folder), "--name", "x", "--models", str(tmp_path)]
    result = CliRunner().invoke(app, [*arguments, "--measure"], catch_exceptions=False)
    assert "class accuracy" in result.output
    (figure,) = read_manifest(tmp_path / "x" / "1").quality
    assert (figure.metric, figure.samples) == ("class obedience", class_accuracy.SAMPLES)
    assert f"{figure.value:.1%}" in (tmp_path / "x" / "1" / "README.md").read_text()
    CliRunner().invoke(app, arguments, catch_exceptions=False)
    plain = read_manifest(tmp_path / "x" / "2")
    assert plain.quality == ()
    assert plain.digest == read_manifest(tmp_path / "x" / "1").digest


def test_failed_measurement_leaves_no_folder(run, conditional_run, tmp_path):
    def fail(model):
        raise QualityError("no data")

    with pytest.raises(QualityError):
        export_run(conditional_run, "x", tmp_path / "models", measure=fail)
    assert not list((tmp_path / "models").iterdir())
    with pytest.raises(QualityError, match="the run has no classes"):
        export(run.folder, models=tmp_path / "models", measure=True)
