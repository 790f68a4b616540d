import json
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from service.cli.main import app
from service.runtime.models.manifest import MANIFEST_FILE, Quality, read_manifest
from tests.training.cli.test_evaluate import assert_self_contained
from tests.training.evaluation.image_to_image.test_evaluation import repository  # noqa: F401 - a fixture
from training.evaluation.errors import QualityError
from training.evaluation.image_to_image.comparison import compared, verdicts
from training.evaluation.image_to_image.evaluation import Way
from training.evaluation.metrics.paired import PairFigures

PICTURES = np.zeros((40, 4, 4, 3), np.uint8)


def way(psnr, direction="generator", reference="a" * 64):
    """A direction whose pairs have these PSNR, and that are alike in all else."""
    each = PairFigures(psnr, np.full(40, 0.5), np.full(40, 0.25))
    suffix = "" if direction == "generator" else f", {direction}"
    figures = tuple(
        Quality(
            metric=f"{metric}{suffix}",
            value=float(values.mean()),
            reference="drawn",
            reference_sha256=reference,
            samples=40,
            reference_samples=40,
        )
        for metric, values in (
            ("PSNR", each.psnr),
            ("SSIM", each.ssim),
            ("feature distance-X", each.feature_distance),
        )
    )
    return Way(direction, figures, each, PICTURES, PICTURES, PICTURES)


def test_what_is_better_in_nearly_every_pair_is_better_for_certain():
    hardness = np.random.default_rng(0).normal(20, 5, 40)
    noise = np.random.default_rng(1).normal(0, 0.1, 40)
    (group,) = compared([("one", [way(hardness)]), ("two", [way(hardness + 0.5 + noise)])])
    psnr, ssim, features = verdicts(group)
    assert (psnr.better, psnr.worse, psnr.sure) == ("two", "one", True)
    assert psnr.difference == pytest.approx(0.5, abs=0.1)
    assert psnr.wins == 40
    # The pairs differ among each other by more: intervals of the means would overlap.
    assert hardness.std() / np.sqrt(40) > psnr.difference
    assert not ssim.sure
    assert not features.sure


def test_differences_by_chance_are_not_told_as_such():
    rng = np.random.default_rng(2)
    (group,) = compared([(name, [way(rng.normal(20, 5, 40))]) for name in ("one", "two")])
    verdict = next(verdicts(group))
    assert not verdict.sure
    assert "cannot be told apart" in str(verdict)


def test_directions_meet_by_the_pictures_that_they_were_to_make():
    both = [way(np.full(40, 9.0), "there"), way(np.full(40, 8.0), "back", "b" * 64)]
    (group,) = compared([("cycle", both), ("pairs", [way(np.full(40, 10.0))])])
    assert [member.title for member in group] == ["cycle, there", "pairs"]
    assert group[0].figures[0].metric == "PSNR"
    assert next(verdicts(group)).better == "pairs"
    with pytest.raises(QualityError, match="do not compare"):
        compared([("one", both), ("two", [way(np.zeros(40), reference="c" * 64)])])


def test_the_command_compares_models_and_shows_their_pictures(
    repository,  # noqa: F811
    photographs,
    small_network_file,
    tmp_path,
):
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
    found = json.loads(done.stdout)
    one, two = found["evaluations"]
    assert one["figures"] == two["figures"]
    assert [verdict["metric"].partition("-")[0] for verdict in found["verdicts"]] == [
        "PSNR",
        "SSIM",
        "feature distance",
    ]
    assert not any(verdict["sure"] for verdict in found["verdicts"])
    assert assert_self_contained(report.read_text()) == 1
    told = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "again@1" in told.output
    assert "cannot be told apart" in told.output


def test_models_of_pictures_and_of_noise_do_not_compare(repository, tmp_path):  # noqa: F811
    flags = ["--models", str(repository)]
    done = CliRunner().invoke(app, ["compare", "filled", str(tmp_path), *flags])
    assert "some make pictures of pictures" in str(done.exception)
