import json
import os

import numpy as np
import pytest

from tests.support.command import assert_one_line_error, run
from tests.support.evaluation import noisy_digits, write_images
from tests.support.html import assert_self_contained


@pytest.fixture
def evaluate(splits, small_network_file, repository):
    """Calls `ganymede evaluate` with few samples and a small network."""

    def call(*arguments: str):
        options = ("--data", splits, "--models", repository, "--network", small_network_file)
        return run("evaluate", *options, "--samples", "60", "--no-obedience", *arguments)

    return call


def test_prints_metrics_and_their_settings(evaluate):
    result = evaluate("gan-mnist")
    assert result.returncode == 0, result.stderr
    for text in ("60 samples of seeds 0 to 59", "held out", "KID-averages", "warning"):
        assert text in result.stdout


def test_prints_json(evaluate):
    content = json.loads(evaluate("gan-mnist", "--json", "--seed", "5").stdout)
    assert content["seeds"] == "5 to 64"
    assert content["figures"][0]["metric"] == "KID-averages"


def test_report_is_self_contained(evaluate, tmp_path):
    report = tmp_path / "out" / "quality.html"
    result = evaluate("cgan-fashion", "--samples", "300", "--report", report)
    assert result.returncode == 0, result.stderr
    page = report.read_text()
    assert assert_self_contained(page) >= 4 + 16
    assert "trouser" in page
    assert "<svg" in page
    assert json.loads(report.with_suffix(".json").read_text())["subject"] == "cgan-fashion@1"


@pytest.mark.slow
def test_run_is_exported_and_evaluated(tmp_path, digits, splits, small_network_file):
    from tests.support.tiny_recipes import TINY
    from training.recipe.loading import load_recipe
    from training.run import Run
    from training.trainer import train

    run_folder = tmp_path / "run"
    overrides = [*TINY["dcgan-fashion"], f"data.path={digits}", "train.log_images=128"]
    train(load_recipe("dcgan-fashion", overrides), Run(run_folder))
    report = tmp_path / "run.html"
    result = run(
        *("evaluate", run_folder, "--data", splits, "--samples", "40", "--report", report),
        *("--network", small_network_file, "--json"),
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["subject"] == "run, last checkpoint"
    assert "loss_discriminator" in report.read_text()


def test_pairs_are_matched_by_name(tmp_path, small_network_file):
    pixels = noisy_digits(12, seed=0)[0]
    generated = write_images(tmp_path / "generated", pixels)
    targets = write_images(tmp_path / "targets", (pixels * 0.5).astype(np.uint8)[:10])
    options = ("--data", targets, "--pairs", "--network", small_network_file)
    result = run("evaluate", generated, *options, "--json")
    assert result.returncode == 0, result.stderr
    content = json.loads(result.stdout)
    assert content["pairs"] == 10
    assert content["mean"]["PSNR"] < 20
    assert set(content["mean"]) == {"PSNR", "SSIM", "feature distance-averages"}
    assert "PSNR (dB)" in run("evaluate", generated, *options).stdout
    other = write_images(tmp_path / "other" / "deep", pixels)
    result = run("evaluate", generated, "--data", other.parent, "--pairs")
    assert_one_line_error(result, 2, "no image in")


def test_invalid_targets_and_options_give_one_line_errors(evaluate, repository, splits, tmp_path):
    assert_one_line_error(evaluate("nowhere"), 2, "not a model, run or folder")
    options = ("--models", repository, "--data", splits, "--network", "x.onnx")
    result = run("evaluate", "gan-mnist", *options)
    assert_one_line_error(result, 2, "unknown feature network 'x.onnx'")
    result = run("evaluate", splits / "test", "--data", splits, "--record")
    assert_one_line_error(result, 2, "--record", "not a model")
    (tmp_path / "model.json").write_text("{}")
    assert_one_line_error(evaluate(str(tmp_path)), 2, "manifest")


def test_error_names_missing_folder(repository):
    result = run("evaluate", "gan-mnist", "--models", repository, "--data", "nowhere")
    assert_one_line_error(result, 2, "nowhere")


def test_missing_data_error_names_the_option(repository, tmp_path):
    environment = os.environ | {"GANYMEDE_DATA": str(tmp_path)}
    result = run(
        *("evaluate", "gan-mnist", "--models", repository, "--data", "emoji"), env=environment
    )
    assert_one_line_error(result, 2, "'emoji'", "--data PATH")
    assert "data.path" not in result.stderr
