import pytest

from training.evaluation.search.results import Confirmation


@pytest.mark.parametrize(
    ("metric", "own", "best", "verdict"),
    [
        ("kernel_distance", (0.3, 0.4), (0.1, 0.2), "better than the recipe with every seed"),
        ("kernel_distance", (0.1, 0.6), (0.2, 0.3), "better on average, but not with every seed"),
        ("kernel_distance", (0.1, 0.2), (0.2, 0.3), "not better than the recipe"),
        ("ssim", (0.2, 0.2), (0.3, 0.3), "better than the recipe with every seed"),
        ("ssim", (0.3, 0.3), (0.2, 0.2), "not better than the recipe"),
    ],
)
def test_verdict_depends_on_confirmation(metric, own, best, verdict):
    confirmation = Confirmation(
        seeds=(1, 2), metric=metric, reference="images", recipe=own, best=best
    )
    assert verdict in confirmation.verdict
