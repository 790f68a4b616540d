"""Evaluation of runs and of exported models, with a tiny model that was trained for real."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.cli.main import app
from service.runtime.models.manifest import read_manifest
from tests.support.text_to_image import TINY, write_drawings
from training.captions.encoders import TextEncoderError
from training.evaluation.evaluation import evaluate_targets, open_target
from training.evaluation.text_to_image.targets import TextToImageTarget
from training.recipe.loading import load_recipe
from training.run import Run
from training.trainer import train

ENCODERS = Path(__file__).parents[4] / "models"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The drawings, the run and a model repository with the text encoder."""
    folder = tmp_path_factory.mktemp("trained")
    drawings = write_drawings(folder / "drawings")
    run = Run(folder / "run")
    overrides = [*TINY, "train.images=16", "data.hold_out=2", f"data.path={drawings}"]
    train(load_recipe("text2emoji", overrides), run)
    shutil.copytree(ENCODERS / "wordllama", folder / "models" / "wordllama")
    return drawings, run, folder / "models"


def command(*arguments):
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


def test_export_measures_and_the_model_is_evaluated_again(trained, small_network_file, monkeypatch):
    drawings, run, models = trained
    monkeypatch.setenv("GANYMEDE_MODELS", str(models))
    monkeypatch.setattr("training.evaluation.text_to_image.evaluation.SAMPLES", 50)
    command("export", run.folder, "--name", "drawn", "--models", models, "--measure")
    folder = models / "drawn" / "1"
    figures = read_manifest(folder).quality
    assert [f.metric for f in figures] == [
        "R-precision",
        "diversity per prompt",
        "KID-EffNetLite0",
    ]
    assert "a matching model on features of EffNetLite0" in figures[0].feature_network
    card = (folder / "README.md").read_text()
    assert "| R-precision |" in card
    assert "shuffled prompts: " in card

    network = ("--network", small_network_file, "--samples", 60)
    output = command("evaluate", "drawn", *network, "--data", drawings, "--json", "--record")
    measured = json.loads(output[output.index("{") :])["figures"]
    recorded = [f.model_dump(exclude_none=True) for f in read_manifest(folder).quality]
    assert measured == recorded
    assert measured[0]["samples"] == 60
    card = (folder / "README.md").read_text()
    assert card.count("| R-precision |") == 1
    assert "EffNetLite0" not in card


def test_run_has_the_figures_of_its_model(trained, small_network_file, monkeypatch):
    _, run, models = trained
    monkeypatch.setenv("GANYMEDE_MODELS", str(models))
    output = command("evaluate", run.folder, "--network", small_network_file, "--samples", 30)
    assert "run, last checkpoint" in output
    assert "shuffled" in output


def test_other_version_of_the_encoder_is_refused(trained, tmp_path, monkeypatch):
    drawings, run, models = trained
    monkeypatch.setenv("GANYMEDE_MODELS", str(models))
    command("export", run.folder, "--name", "other", "--models", models)
    shutil.copytree(models / "other", tmp_path / "other")
    with pytest.raises(TextEncoderError, match="needs the text encoder wordllama with the digest"):
        open_target("other", tmp_path, data=str(drawings))
    target = open_target("other", models, data=str(drawings))
    assert isinstance(target, TextToImageTarget)


def test_reference_samples_are_refused(trained, monkeypatch):
    from training.evaluation.errors import QualityError
    from training.evaluation.evaluation import EvaluationSettings

    _, run, models = trained
    monkeypatch.setenv("GANYMEDE_MODELS", str(models))
    target = open_target(str(run.folder), models)
    with pytest.raises(QualityError, match="--reference does not apply"):
        evaluate_targets([target], EvaluationSettings(reference_samples=50))
