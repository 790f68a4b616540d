import pytest

from service.runtime.models.parts.additions import InversionFigure
from training.latent.inversion.quality import gate_failures


def _figure(metric: str, value: float, mean: float, nearest: float, images="own images, seeds 0"):
    return InversionFigure(
        metric=metric,
        images=images,
        count=10,
        value=value,
        mean_image=mean,
        nearest=nearest,
        candidates=100,
    )


@pytest.mark.parametrize(("metric", "value"), [("PSNR", 18.1), ("feature distance", 8.9)])
def test_a_clear_margin_over_both_baselines_passes(metric: str, value: float) -> None:
    better = (12.0, 16.0) if metric == "PSNR" else (14.0, 10.0)
    assert gate_failures([_figure(metric, value, *better)]) == []


@pytest.mark.parametrize(
    ("metric", "value", "baselines"),
    [
        ("PSNR", 17.9, (12.0, 16.0)),
        ("PSNR", 17.9, (16.0, 12.0)),
        ("feature distance", 9.1, (14.0, 10.0)),
        ("feature distance", 9.1, (10.0, 14.0)),
    ],
)
def test_a_small_margin_over_either_baseline_fails(metric, value, baselines) -> None:
    (failure,) = gate_failures([_figure(metric, value, *baselines)])
    assert "than the better baseline" in failure


def test_photographs_are_reported_only() -> None:
    assert gate_failures([_figure("PSNR", 1, 12, 16, "photographs: flowers, split test")]) == []
