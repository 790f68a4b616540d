import json

import pytest

from tests.support.command import assert_one_line_error, run
from tests.support.tiny_recipes import TINY

RATE = "optimizer.generator.learning_rate"


@pytest.mark.slow
def test_prints_verdict_and_json(tmp_path, digits, small_network_file):
    out = tmp_path / "out"
    overrides = [
        *TINY["gan-mnist"],
        f"data.path={digits}",
        f"evaluate={{every_images: 640, samples: 60, network: {small_network_file}}}",
        f"search={{{RATE}: {{low: 0.00001, high: 0.01, log: true}}}}",
    ]
    command = ["search", "gan-mnist", *overrides, "--trials", "1", "--confirm", "0", "--out", out]
    result = run(*command)
    assert result.returncode == 0, result.stderr
    assert "no trial was better than the recipe's own values" in result.stdout
    assert json.loads(run(*command, "--json").stdout)["best"]["values"] == {RATE: 2e-4}


def test_rejects_recipe_without_ranges(tmp_path):
    result = run("search", "gan-mnist", "search={}", "--out", tmp_path / "out")
    assert_one_line_error(result, 2, "declares no ranges")
