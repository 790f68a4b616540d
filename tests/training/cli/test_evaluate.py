import json
import os
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from tests.support.command import assert_one_line_error, run
from tests.training.evaluation.conftest import drawn, write_pictures


@pytest.fixture
def measure(splits, small_network_file, models):
    """Calls a verb on small data, and returns what it prints."""

    def call(verb: str, *arguments: str):
        small = ("--data", splits, "--models", models, "--network", small_network_file)
        return run(verb, *small, "--samples", "60", "--no-obedience", *arguments)

    return call


class Links(HTMLParser):
    """Collects whatever a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.wanted, self.pictures = [], 0

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ("src", "href", "srcset", "data", "poster"):
                self.wanted.append(value)
        self.pictures += tag == "img"
        assert tag not in ("script", "link", "iframe", "base")


def assert_self_contained(page: str) -> int:
    links = Links()
    links.feed(page)
    assert all(link.startswith("data:image/png;base64,") for link in links.wanted)
    assert not re.search(r"url\(|@import", page)
    return links.pictures


def test_evaluate_prints_figures_and_what_they_rest_on(measure):
    done = measure("evaluate", "gan-mnist")
    assert done.returncode == 0, done.stderr
    for words in ("60 samples of seeds 0 to 59", "not trained on", "KID-averages", "beware"):
        assert words in done.stdout
    done = measure("evaluate", "gan-mnist", "--json", "--seed", "5")
    said = json.loads(done.stdout)
    assert said["seeds"] == "5 to 64"
    assert said["figures"][0]["metric"] == "KID-averages"


def test_a_report_holds_all_that_it_shows(measure, tmp_path):
    report = tmp_path / "out" / "quality.html"
    done = measure("evaluate", "cgan-fashion", "--samples", "300", "--report", report)
    assert done.returncode == 0, done.stderr
    page = report.read_text()
    assert assert_self_contained(page) >= 4 + 16
    assert "trouser" in page
    assert "<svg" in page
    assert json.loads(report.with_suffix(".json").read_text())["subject"] == "cgan-fashion@1"


def test_compare_holds_models_against_each_other(measure, tmp_path, splits):
    report = tmp_path / "comparison.html"
    done = measure("compare", "dcgan-fashion", str(splits / "test"), "--json", "--report", report)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert [each["subject"] for each in said["evaluations"]] == ["dcgan-fashion@1", "test"]
    assert said["verdicts"] == [{"better": "test", "worse": "dcgan-fashion@1", "sure": True}]
    assert "test is nearer to the real pictures than dcgan-fashion@1" in report.read_text()
    assert_self_contained(report.read_text())


def test_a_run_is_exported_and_measured(tmp_path, digits, splits, small_network_file):
    from tests.support.tiny_recipes import TINY
    from training.recipe.schema import load_recipe
    from training.run import Run
    from training.trainer import train

    run_folder = tmp_path / "run"
    overrides = [*TINY["dcgan-fashion"], f"data.path={digits}", "train.log_images=128"]
    train(load_recipe("dcgan-fashion", overrides), Run(run_folder))
    report = tmp_path / "run.html"
    done = run(
        *("evaluate", run_folder, "--data", splits, "--samples", "40", "--report", report),
        *("--network", small_network_file, "--json"),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["subject"] == "run, last checkpoint"
    assert "loss_discriminator" in report.read_text()


def test_pairs_are_compared_by_name(tmp_path, small_network_file):
    pixels = drawn(12, seed=0)[0]
    made = write_pictures(tmp_path / "made", pixels)
    wanted = write_pictures(tmp_path / "wanted", (pixels * 0.5).astype(np.uint8)[:10])
    options = ("--data", wanted, "--pairs", "--network", small_network_file)
    done = run("evaluate", made, *options, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["pairs"] == 10
    assert said["mean"]["PSNR"] < 20
    assert {"PSNR", "SSIM", "feature distance-averages"} == set(said["mean"])
    assert "PSNR" in run("evaluate", made, *options).stdout
    other = write_pictures(tmp_path / "other" / "deep", pixels)
    done = run("evaluate", made, "--data", other.parent, "--pairs")
    assert_one_line_error(done, 2, "no picture of")


def test_what_cannot_be_measured_is_one_line(measure, models, splits, tmp_path):
    assert_one_line_error(measure("evaluate", "nowhere"), 2, "no model, run or folder")
    done = run("evaluate", "gan-mnist", "--models", models, "--data", "nowhere")
    assert_one_line_error(done, 2, "no such file or folder: nowhere")
    done = run("evaluate", "gan-mnist", "--models", models, "--data", splits, "--network", "x.onnx")
    assert_one_line_error(done, 2, "no feature network 'x.onnx'")
    done = run("evaluate", splits / "test", "--data", splits, "--record")
    assert_one_line_error(done, 2, "--record", "no model")
    assert_one_line_error(measure("compare", "gan-mnist"), 2, "two or more")
    (tmp_path / "model.json").write_text("{}")
    assert_one_line_error(measure("evaluate", str(tmp_path)), 2, "is not a manifest")


@pytest.mark.parametrize("verb", ["evaluate", "compare"])
def test_data_that_are_missing_are_given_by_the_option(verb, models, tmp_path):
    names = ("gan-mnist", "dcgan-fashion")[: 2 if verb == "compare" else 1]
    nothing = os.environ | {"GANYMEDE_DATA": str(tmp_path)}
    done = run(verb, *names, "--models", models, "--data", "emoji", env=nothing)
    assert_one_line_error(
        done, 2, "'emoji' was not found; provide it with --data PATH, or a folder or ZIP"
    )
    assert "data.path" not in done.stderr
