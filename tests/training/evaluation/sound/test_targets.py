"""Evaluation of runs and models of sounds."""

import functools
import json

import pytest
from typer.testing import CliRunner

from service.cli.main import app
from service.runtime.models.manifest import read_manifest
from tests.support.sounds import write_tones
from training.data.sources import DataError
from training.evaluation.errors import QualityError
from training.evaluation.evaluation import (
    EvaluationSettings,
    compare_results,
    evaluate_targets,
    open_target,
)
from training.evaluation.report.recording import record_figures
from training.evaluation.sound import classifier
from training.export.exporter import export_run
from training.recipe.loading import load_recipe
from training.run import Run
from training.trainer import train

TINY = [
    "classes=2",
    "data.sound.samples=512",
    "generator.width=2",
    "generator.z_dim=8",
    "discriminator.width=2",
    "train.batch=8",
    "train.images=32",
    "train.loggers=[]",
    "device.device=cpu",
]
SETTINGS = EvaluationSettings(samples=12)


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
    return write_tones(tmp_path_factory.mktemp("sounds") / "tones")


@pytest.fixture(scope="module")
def run(tones, tmp_path_factory) -> Run:
    run = Run(tmp_path_factory.mktemp("runs") / "tones")
    train(load_recipe("wavegan-digits", [*TINY, f"data.path={tones}"]), run)
    return run


@pytest.fixture(scope="module")
def models(run, tmp_path_factory):
    models = tmp_path_factory.mktemp("models")
    export_run(run, "tones", models)
    return models


@pytest.fixture(autouse=True)
def small_classifier(tmp_path, monkeypatch):
    monkeypatch.setenv("GANYMEDE_CACHE", str(tmp_path / "cache"))
    small = functools.partial(classifier.ClassifierSettings, width=2, sounds=128)
    monkeypatch.setattr(classifier, "ClassifierSettings", small)


def test_run_is_measured_on_what_it_was_not_trained_on(run, models):
    target = open_target(str(run.folder), models)
    (result,) = evaluate_targets([target], SETTINGS)
    content = json.loads(json.dumps(result.to_json()))
    assert content["held_out"] == {
        "title": "tones, split test",
        "sounds": 6,
        "new_to_generator": True,
        "copies_left_out": 0,
    }
    assert "24 sounds of tones, which are these" in content["trained_on"]
    text = "\n".join(str(part) for part in result.summary().parts)
    assert "neither the generator nor the classifier" in text
    assert "warning" not in text


def test_changed_data_of_a_run_are_refused(run, models, tones):
    moved = tones / "train" / "low" / "train-0.wav"
    content = moved.read_bytes()
    moved.unlink()
    try:
        with pytest.raises(DataError, match="has changed since"):
            evaluate_targets([open_target(str(run.folder), models)], SETTINGS)
    finally:
        moved.write_bytes(content)


def test_model_of_data_at_a_path_needs_them(models, tones):
    with pytest.raises(QualityError, match="have no known name; provide them with --data"):
        open_target("tones", models)
    target = open_target("tones", models, data=str(tones))
    (result,) = evaluate_targets([target], SETTINGS)
    # They are recognized by their fingerprint.
    assert result.to_json()["held_out"]["new_to_generator"] is True


def test_selection_of_the_training_applies_to_a_model(tmp_path, tones):
    run = Run(tmp_path / "run")
    train(load_recipe("wavegan-digits", [*TINY, f"data.path={tones}", "data.limit=16"]), run)
    export_run(run, "tones", tmp_path / "models")
    target = open_target("tones", tmp_path / "models", data=str(tones))
    assert target.data.limit == 16
    (result,) = evaluate_targets([target], SETTINGS)
    assert result.figures[0].reference_samples == 16
    assert result.to_json()["held_out"]["new_to_generator"] is True


def test_generator_that_saw_the_held_out_sounds_gets_a_warning(tmp_path, tones):
    data = tones / "train"
    run = Run(tmp_path / "run")
    train(load_recipe("wavegan-digits", [*TINY, f"data.path={data}"]), run)
    (result,) = evaluate_targets([open_target(str(run.folder), tmp_path)], SETTINGS)
    assert result.to_json()["held_out"]["new_to_generator"] is False
    assert any("warning: real sounds" in str(part) for part in result.summary().parts)


def test_figures_are_recorded_with_what_was_held_out(models, tones):
    target = open_target("tones", models, data=str(tones))
    (result,) = evaluate_targets([target], SETTINGS)
    manifest = record_figures(target.model.folder, result.digest, result.figures)
    assert [figure.metric for figure in manifest.quality] == [
        figure.metric for figure in result.figures
    ]
    assert "6 held-out sounds (tones, split test)" in manifest.quality[0].note


def test_refuses_options_of_images_and_comparisons(models, tones):
    target = open_target("tones", models, data=str(tones))
    with pytest.raises(QualityError, match="network: not an option for models of sounds"):
        evaluate_targets([target], EvaluationSettings(samples=4, network="inception"))
    results = evaluate_targets([target, target], SETTINGS)
    with pytest.raises(QualityError, match="not compared in pairs"):
        compare_results(results)


def test_export_measures_a_run_and_records_the_figures(run, tmp_path):
    arguments = ["export", str(run.folder), "--name", "measured", "--models", str(tmp_path)]
    result = CliRunner().invoke(app, [*arguments, "--measure"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    figures = read_manifest(tmp_path / "measured" / "1").quality
    assert "class obedience" in {figure.metric for figure in figures}
    assert "class accuracy" in result.output
