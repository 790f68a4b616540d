"""The quality of what a discriminator selects, for a model whose brighter images are better."""

import numpy as np
import pytest
from typer.testing import CliRunner

from service.cli.main import app
from service.runtime.models.manifest import read_manifest
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from tests.support.evaluation import write_images
from tests.support.scored_models import brightness, write_scored_models
from training.evaluation.errors import QualityError
from training.evaluation.evaluation import EvaluationSettings
from training.evaluation.noise.selection import measure_selection
from training.evaluation.noise.targets import open_noise_target

SHARES = (1.0, 0.5, 0.2)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scored")
    write_scored_models(folder)
    return folder


@pytest.fixture(scope="module")
def bright(models, tmp_path_factory):
    """Real images: the brightest fifth of the images of other seeds."""
    model = Model(models / "painted" / "1", Provider.CPU, ExecutionPlan(1, 1, 64))
    pixels = model.generate(range(10_000, 11_500))
    best = np.argsort(-brightness(pixels))[:300]
    return write_images(tmp_path_factory.mktemp("bright"), pixels[best])


@pytest.fixture(scope="module")
def settings(bright, small_network_file):
    return EvaluationSettings(data=str(bright), samples=100, network=str(small_network_file))


@pytest.fixture(scope="module")
def result(models, settings):
    return measure_selection(open_noise_target("painted", models), settings, shares=SHARES)


def test_measures_both_methods_at_each_share(result):
    assert [(each.method, each.share) for each in result.figures] == [
        ("rank", 1.0),
        ("rank", 0.5),
        ("rejection", 0.5),
        ("rank", 0.2),
        ("rejection", 0.2),
    ]
    assert {each.samples for each in result.figures} == {100}
    assert {each.candidates for each in result.figures} == {500}
    assert all(each.low < each.kernel_distance < each.high for each in result.figures)


def test_images_that_resemble_the_real_ones_are_closer_to_them(result):
    distances = {(each.method, each.share): each.kernel_distance for each in result.figures}
    assert distances["rank", 0.2] < distances["rank", 0.5] < distances["rank", 1.0]
    assert distances["rejection", 0.2] < distances["rank", 1.0]


def test_scores_are_calibrated_with_real_images(result):
    assert result.calibration.scale > 0.01
    assert result.calibration.samples == 500
    assert "bright" in result.calibration.reference
    assert not result.warnings


def test_the_measurement_is_repeatable(models, settings, result):
    again = measure_selection(open_noise_target("painted", models), settings, shares=SHARES)
    assert again == result


def test_classes_without_labels_leave_the_scores_as_they_are(models, settings):
    result = measure_selection(open_noise_target("cut", models), settings, shares=(1.0, 0.5))
    assert result.calibration.scale == 1.0
    assert "do not have the model's classes" in result.warnings[0]
    # Equally many of each of three classes.
    assert {each.candidates for each in result.figures} == {201}


def test_darker_real_images_give_a_warning(models, tmp_path, small_network_file):
    dark = np.random.default_rng(0).integers(0, 60, (60, 24, 24, 3)).astype(np.uint8)
    data = str(write_images(tmp_path / "dark", dark))
    settings = EvaluationSettings(data=data, samples=20, network=str(small_network_file))
    result = measure_selection(open_noise_target("painted", models), settings, shares=(1.0, 0.5))
    assert "cannot tell which images are better" in result.warnings[0]
    assert result.calibration.scale > 0


def test_rejects_a_model_without_discriminator(models, settings):
    with pytest.raises(QualityError, match="has no discriminator"):
        measure_selection(open_noise_target("unscored", models), settings)


def test_the_command_records_the_figures(models, bright, small_network_file):
    before = read_manifest(models / "painted" / "1")
    options = ["--data", bright, "--models", models, "--network", small_network_file, "--rank"]
    command = ["evaluate", "painted", *map(str, options)]
    result = CliRunner().invoke(app, [*command, "--record", "--samples", "20"])
    assert result.exit_code == 0, result.output
    assert "painted@1, selected by its discriminator" in result.stdout
    manifest = read_manifest(models / "painted" / "1")
    assert manifest.digest == before.digest
    assert len(manifest.discriminator.figures) == 7
    assert manifest.discriminator.calibration.reference
    refused = CliRunner().invoke(app, [*command, "--pairs"])
    assert refused.exit_code != 0
