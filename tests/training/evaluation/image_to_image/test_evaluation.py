import json

import numpy as np
import pytest
from typer.testing import CliRunner

from service.cli.main import app
from service.runtime.models.manifest import MANIFEST_FILE, read_manifest
from service.runtime.models.parts.provenance import TrainingData
from tests.support.html import assert_self_contained
from tests.support.image_to_image_models import FILL
from training.data.datasets import DatasetMissing
from training.evaluation.errors import QualityError
from training.evaluation.features.references import digest_of
from training.evaluation.image_to_image.evaluation import evaluate_directions
from training.evaluation.image_to_image.targets import open_image_to_image_target
from training.recipe.loading import load_recipe
from training.run import Run
from training.trainer import train


def test_figures_are_means_over_pairs(image_to_image_repository, photographs, small_network):
    target = open_image_to_image_target("filled", image_to_image_repository, data=str(photographs))
    (result,) = evaluate_directions(target.recipe, target.model, small_network)
    hole = (result.inputs == 255).all(axis=-1)
    assert 0.05 < hole.mean() < 0.6
    np.testing.assert_array_equal(result.outputs[hole], np.broadcast_to(FILL, (hole.sum(), 3)))
    np.testing.assert_array_equal(result.outputs[~hole], result.targets[~hole])
    figures = {figure.metric: figure for figure in result.figures}
    assert list(figures) == ["PSNR", "SSIM", "feature distance-averages", "error"]
    error = np.abs(result.outputs.astype(int) - result.targets).mean() / 255
    assert figures["error"].value == pytest.approx(error)
    assert figures["PSNR"].value == pytest.approx(result.values["psnr"].mean())
    assert figures["PSNR"].value < figures["PSNR"].baseline
    for figure in result.figures:
        assert figure.reference == f"{photographs.name}, split test"
        assert figure.reference_sha256 == digest_of(result.targets)
        assert figure.samples == 12
        assert figure.resizing
    (fewer,) = evaluate_directions(target.recipe, target.model, small_network, 5)
    assert len(fewer.outputs) == fewer.figures[0].samples == 5


@pytest.fixture
def evaluate(image_to_image_repository, photographs, small_network_file):
    """Calls `ganymede evaluate` and returns its output."""

    def call(target, *arguments):
        options = ["--models", image_to_image_repository, "--network", small_network_file]
        options += ["--data", photographs]
        command = ["evaluate", str(target), *map(str, (*options, *arguments))]
        return CliRunner().invoke(app, command, catch_exceptions=False).stdout

    return call


def test_model_is_evaluated_reported_and_recorded(evaluate, image_to_image_repository, tmp_path):
    report, folder = tmp_path / "quality.html", image_to_image_repository / "filled" / "1"
    output = evaluate("filled", "--report", report, "--record")
    for words in ("filled@1", "12 pairs of", "split test", "averages", "the mean color", "wrote"):
        assert words in output
    assert assert_self_contained(report.read_text()) == 3
    content = json.loads(report.with_suffix(".json").read_text())
    assert len(content["each"]["generator"]["PSNR"]) == 12
    assert content["figures"] == json.loads(evaluate(folder.parent, "--json"))["figures"]
    recorded = read_manifest(folder)
    assert recorded.quality[0].metric == "PSNR"
    assert "| Measured on |" in (folder / "README.md").read_text()


@pytest.mark.slow
def test_run_is_exported_and_evaluated(evaluate, photographs, tmp_path):
    small = ["generator.width=4", "generator.dilations=[1]", "discriminator.width=4"]
    overrides = [*small, f"data.path={photographs}", "game.alone_images=4", "game.features=0"]
    sizes = ["train.batch=4", "train.images=16", "train.log_images=4", "data.resolution=32"]
    run = Run(tmp_path / "run")
    train(load_recipe("inpaint-flowers", [*overrides, *sizes]), run)
    report = tmp_path / "quality.html"
    assert "run, last checkpoint" in evaluate(run.folder, "--report", report)
    assert "<svg" in report.read_text()
    with pytest.raises(QualityError, match="not a model in a model repository"):
        evaluate(run.folder, "--record")


@pytest.mark.parametrize("option", [("--truncation", "0.5"), ("--seed", "3"), ("--split", "train")])
def test_rejects_options_of_noise_models(evaluate, option):
    with pytest.raises(QualityError, match=f"{option[0]} does not apply to filled@1"):
        evaluate("filled", *option)


def test_rejects_imported_model(evaluate):
    with pytest.raises(QualityError, match="softer is an imported model"):
        evaluate("softer")


def test_rejects_training_data_that_are_not_those_of_the_recipe(
    image_to_image_repository, small_network_file
):
    folder = image_to_image_repository / "filled" / "1"
    manifest = read_manifest(folder)
    record = TrainingData(title="own", license="unknown", images=60, fingerprint="a" * 64)
    provenance = manifest.provenance.model_copy(update={"data": (record,)})
    other = manifest.model_copy(update={"provenance": provenance})
    (folder / MANIFEST_FILE).write_text(other.to_json())
    command = ["evaluate", "filled", "--models", str(image_to_image_repository)]
    command += ["--network", str(small_network_file)]
    with pytest.raises(QualityError, match=r"trained on own, 60 images.*with --data PATH"):
        CliRunner().invoke(app, command, catch_exceptions=False)


def test_rejects_model_of_unknown_recipe(evaluate, image_to_image_repository):
    folder = image_to_image_repository / "filled" / "1"
    manifest = read_manifest(folder)
    provenance = manifest.provenance.model_copy(update={"recipe": "my-own"})
    other = manifest.model_copy(update={"provenance": provenance})
    (folder / MANIFEST_FILE).write_text(other.to_json())
    with pytest.raises(QualityError, match="'my-own', which is not available: evaluate its run"):
        evaluate("filled")


def test_missing_data_error_names_the_option(
    image_to_image_repository, small_network_file, tmp_path, monkeypatch
):
    monkeypatch.setenv("GANYMEDE_DATA", str(tmp_path))
    command = ["evaluate", "filled", "--models", str(image_to_image_repository)]
    command += ["--network", str(small_network_file)]
    with pytest.raises(DatasetMissing, match=r"'flowers'.*--data PATH"):
        CliRunner().invoke(app, command, catch_exceptions=False)
