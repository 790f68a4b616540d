import json
import os

import pytest

from tests.support.command import assert_one_line_error, run
from tests.support.html import assert_self_contained


@pytest.mark.slow
def test_compares_a_model_with_a_folder(repository, splits, small_network_file, tmp_path):
    report = tmp_path / "comparison.html"
    result = run(
        *("compare", "dcgan-fashion", splits / "test", "--models", repository, "--data", splits),
        *("--network", small_network_file, "--samples", "60", "--no-obedience"),
        *("--json", "--report", report),
    )
    assert result.returncode == 0, result.stderr
    content = json.loads(result.stdout)
    assert [evaluation["subject"] for evaluation in content["evaluations"]] == [
        "dcgan-fashion@1",
        "test",
    ]
    assert content["verdicts"] == [{"better": "test", "worse": "dcgan-fashion@1", "sure": True}]
    page = report.read_text()
    assert "test is closer to the real images than dcgan-fashion@1" in page
    assert_self_contained(page)


def test_rejects_a_single_target():
    assert_one_line_error(run("compare", "gan-mnist"), 2, "two or more")


def test_missing_data_error_names_the_option(repository, tmp_path):
    environment = os.environ | {"GANYMEDE_DATA": str(tmp_path)}
    names = ("gan-mnist", "dcgan-fashion")
    result = run("compare", *names, "--models", repository, "--data", "emoji", env=environment)
    assert_one_line_error(result, 2, "'emoji'", "--data PATH")
