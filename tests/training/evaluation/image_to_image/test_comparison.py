import json
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from service.cli.main import app
from service.runtime.models.manifest import MANIFEST_FILE, read_manifest
from service.runtime.models.parts.measurements import Quality
from tests.support.html import assert_self_contained
from training.evaluation.errors import QualityError
from training.evaluation.image_to_image.comparison import compare_members, group_by_targets
from training.evaluation.image_to_image.evaluation import DirectionResult

IMAGES = np.zeros((40, 4, 4, 3), np.uint8)


def result(psnr, direction="generator", reference="a" * 64) -> DirectionResult:
    """A result with these PSNR values, and the same values of all other metrics."""
    values = {"psnr": psnr, "ssim": np.full(40, 0.5), "feature_distance": np.full(40, 0.25)}
    suffix = "" if direction == "generator" else f", {direction}"
    keys = ("PSNR", "SSIM", "feature distance-X")
    figures = tuple(
        Quality(
            metric=f"{key}{suffix}",
            value=float(each.mean()),
            reference="random",
            reference_sha256=reference,
            samples=40,
            reference_samples=40,
        )
        for key, each in zip(keys, values.values(), strict=True)
    )
    return DirectionResult(direction, figures, values, IMAGES, IMAGES, IMAGES)


def test_consistent_difference_is_sure():
    difficulty = np.random.default_rng(0).normal(20, 5, 40)
    noise = np.random.default_rng(1).normal(0, 0.1, 40)
    (group,) = group_by_targets(
        [("one", [result(difficulty)]), ("two", [result(difficulty + 0.5 + noise)])]
    )
    psnr, ssim, feature_distance = compare_members(group)
    assert (psnr.better, psnr.worse, psnr.sure) == ("two", "one", True)
    assert psnr.difference == pytest.approx(0.5, abs=0.1)
    assert psnr.wins == 40
    # The intervals of the means would overlap: the pairs differ from each other by more.
    assert difficulty.std() / np.sqrt(40) > psnr.difference
    assert not ssim.sure
    assert not feature_distance.sure


def test_random_difference_is_not_sure():
    rng = np.random.default_rng(2)
    (group,) = group_by_targets(
        [(name, [result(rng.normal(20, 5, 40))]) for name in ("one", "two")]
    )
    verdict = next(compare_members(group))
    assert not verdict.sure
    assert "no significant difference" in str(verdict)


def test_directions_are_grouped_by_targets():
    cycle = [
        result(np.full(40, 9.0), "forward"),
        result(np.full(40, 8.0), "backward", "b" * 64),
    ]
    (group,) = group_by_targets([("cycle", cycle), ("pairs", [result(np.full(40, 10.0))])])
    assert [member.title for member in group] == ["cycle, forward", "pairs"]
    assert group[0].figures[0].metric == "PSNR"
    assert next(compare_members(group)).better == "pairs"


def test_rejects_models_without_common_targets():
    one = [result(np.full(40, 9.0))]
    two = [result(np.zeros(40), reference="c" * 64)]
    with pytest.raises(QualityError, match="cannot be compared"):
        group_by_targets([("one", one), ("two", two)])


@pytest.mark.slow
def test_command_compares_models(
    image_to_image_repository, photographs, small_network_file, tmp_path
):
    repository = image_to_image_repository
    shutil.copytree(repository / "filled", repository / "again")
    folder = repository / "again" / "1"
    manifest = read_manifest(folder).model_copy(update={"name": "again"})
    (folder / MANIFEST_FILE).write_text(manifest.to_json())
    report = tmp_path / "report.html"
    arguments = ["compare", "filled", "again", "--models", str(repository)]
    arguments += ["--data", str(photographs), "--samples", "10"]
    arguments += ["--network", str(small_network_file), "--report", str(report)]
    done = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    content = json.loads(done.stdout)
    one, two = content["evaluations"]
    assert one["figures"] == two["figures"]
    assert [verdict["metric"].partition("-")[0] for verdict in content["verdicts"]] == [
        "PSNR",
        "SSIM",
        "feature distance",
    ]
    assert not any(verdict["sure"] for verdict in content["verdicts"])
    # One image of both models side by side, and three of each.
    assert assert_self_contained(report.read_text()) == 7
    output = CliRunner().invoke(app, arguments, catch_exceptions=False).output
    assert "again@1" in output
    assert "no significant difference" in output


def test_rejects_models_of_different_kinds(image_to_image_repository, photographs):
    arguments = ["compare", "filled", str(photographs / "test")]
    arguments += ["--models", str(image_to_image_repository), "--data", str(photographs)]
    done = CliRunner().invoke(app, arguments)
    assert "models of different tasks cannot be compared" in str(done.exception)
