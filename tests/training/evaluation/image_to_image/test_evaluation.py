import json

import numpy as np
import pytest
from typer.testing import CliRunner

from service.cli.main import app
from service.runtime.models.manifest import MANIFEST_FILE, TrainingProvenance, read_manifest
from tests.support.image_to_image_models import FILL, write_translators
from tests.training.cli.test_evaluate import assert_self_contained
from training.data.datasets import DatasetMissing
from training.evaluation.errors import QualityError
from training.evaluation.features.references import digest_of
from training.evaluation.image_to_image.evaluation import measure_ways
from training.evaluation.image_to_image.targets import open_image_to_image_target
from training.recipe.schema import load_recipe
from training.run import Run
from training.trainer import train


@pytest.fixture
def repository(tmp_path):
    """Models of arithmetic, one of which says that it was trained by the recipe for inpainting."""
    models = tmp_path / "models"
    write_translators(models)
    folder = models / "filled" / "1"
    made = TrainingProvenance(
        recipe="inpaint-flowers",
        dataset="flowers",
        dataset_license="none",
        images=1,
        turns=1,
        seconds=1,
        device="CPU",
        seed=0,
        code_revision="0",
    )
    manifest = read_manifest(folder).model_copy(update={"provenance": made})
    (folder / MANIFEST_FILE).write_text(manifest.to_json())
    (folder / "README.md").write_text("# filled\n\n| | |\n|---|---|\n")
    return models


def test_figures_are_the_means_of_pairs_and_name_the_pictures(
    repository, photographs, small_network
):
    translator = open_image_to_image_target("filled", repository, data=str(photographs))
    (way,) = measure_ways(translator.recipe, translator.model, small_network)
    hole = (way.given == 255).all(axis=-1)
    assert 0.05 < hole.mean() < 0.6
    np.testing.assert_array_equal(way.made[hole], np.broadcast_to(FILL, (hole.sum(), 3)))
    np.testing.assert_array_equal(way.made[~hole], way.wanted[~hole])
    figures = {figure.metric: figure for figure in way.figures}
    assert set(figures) == {"PSNR", "SSIM", "feature distance-averages", "error"}
    error = np.abs(way.made.astype(int) - way.wanted).mean() / 255
    assert figures["error"].value == pytest.approx(error)
    assert figures["PSNR"].value == pytest.approx(way.each.psnr.mean())
    assert figures["PSNR"].value < figures["PSNR"].baseline
    for figure in way.figures:
        assert figure.reference == f"{photographs.name}, split test"
        assert figure.reference_sha256 == digest_of(way.wanted)
        assert figure.samples == 12
        assert figure.resizing
    (fewer,) = measure_ways(translator.recipe, translator.model, small_network, 5)
    assert len(fewer.made) == fewer.figures[0].samples == 5


@pytest.fixture
def evaluate(repository, photographs, small_network_file):
    def call(subject, *arguments):
        options = ("--models", repository, "--network", small_network_file, "--data", photographs)
        given = ["evaluate", str(subject), *map(str, (*options, *arguments))]
        return CliRunner().invoke(app, given, catch_exceptions=False).stdout

    return call


def test_evaluate_measures_a_model_by_name_or_folder_and_reports_and_records_it(
    evaluate, repository, tmp_path
):
    report, folder = tmp_path / "quality.html", repository / "filled" / "1"
    told = evaluate("filled", "--report", report, "--record")
    for words in ("filled@1", "12 pairs of", "split test", "averages", "the mean colour", "wrote"):
        assert words in told
    assert assert_self_contained(report.read_text()) == 3
    said = json.loads(report.with_suffix(".json").read_text())
    assert len(said["each"]["generator"]["PSNR"]) == 12
    assert said["figures"] == json.loads(evaluate(folder.parent, "--json"))["figures"]
    recorded = read_manifest(folder)
    assert recorded.quality[0].metric == "PSNR"
    assert "| Measured on |" in (folder / "README.md").read_text()


def test_a_run_from_pictures_is_exported_and_measured(evaluate, photographs, tmp_path):
    small = ["generator.width=4", "generator.dilations=[1]", "discriminator.width=4"]
    overrides = [*small, f"data.path={photographs}", "game.alone_images=4", "game.features=0"]
    sizes = ["train.batch=4", "train.images=16", "train.log_images=4", "data.resolution=32"]
    run = Run(tmp_path / "run")
    train(load_recipe("inpaint-flowers", [*overrides, *sizes]), run)
    report = tmp_path / "quality.html"
    assert "run, last checkpoint" in evaluate(run.folder, "--report", report)
    assert "<svg" in report.read_text()
    with pytest.raises(QualityError, match="no model of a repository"):
        evaluate(run.folder, "--record")


def test_what_cannot_be_measured_is_refused(evaluate, repository):
    for option in (("--truncation", "0.5"), ("--seed", "3"), ("--split", "train")):
        with pytest.raises(QualityError, match=f"{option[0]}: filled@1 makes pictures of pictures"):
            evaluate("filled", *option)
    with pytest.raises(QualityError, match="softer was not trained here"):
        evaluate("softer")
    folder = repository / "filled" / "1"
    manifest = read_manifest(folder)
    made = manifest.provenance.model_copy(update={"recipe": "my-own"})
    other = manifest.model_copy(update={"provenance": made})
    (folder / MANIFEST_FILE).write_text(other.to_json())
    with pytest.raises(QualityError, match="recipe 'my-own', which is not here: measure its run"):
        evaluate("filled")


def test_data_of_a_recipe_that_are_missing_are_given_by_the_option(
    repository, small_network_file, tmp_path, monkeypatch
):
    monkeypatch.setenv("GANYMEDE_DATA", str(tmp_path))
    given = ["evaluate", "filled", "--models", repository, "--network", small_network_file]
    with pytest.raises(
        DatasetMissing, match="'flowers' was not found; provide it with --data PATH"
    ):
        CliRunner().invoke(app, list(map(str, given)), catch_exceptions=False)
