import numpy as np
import pytest

from training.evaluation.metrics.distribution import (
    Moments,
    frechet_distance,
    inception_score,
    kernel_distance,
)


def normal(count: int, width: int = 4, seed: int = 0, mean=0.0, spread=1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, spread, (count, width))


def test_the_frechet_distance_of_two_normal_distributions_is_the_known_one():
    a = Moments(np.zeros(3), np.diag([1.0, 4.0, 9.0]), 10)
    b = Moments(np.array([1.0, 2.0, 2.0]), np.diag([4.0, 4.0, 1.0]), 10)
    # |m|² = 9; (1 - 2)² + (2 - 2)² + (3 - 1)² = 5.
    assert frechet_distance(a, b) == pytest.approx(14)
    assert frechet_distance(b, a) == pytest.approx(14)


def test_it_does_not_depend_on_the_axes():
    turn, _ = np.linalg.qr(normal(3, 3))
    a = Moments(np.zeros(3), turn @ np.diag([1.0, 4.0, 9.0]) @ turn.T, 10)
    b = Moments(turn @ [1.0, 2.0, 2.0], turn @ np.diag([4.0, 4.0, 1.0]) @ turn.T, 10)
    assert frechet_distance(a, b) == pytest.approx(14)


def test_samples_of_two_known_distributions_come_near_their_distance():
    a, b = normal(40_000), normal(40_000, seed=1, mean=0.5, spread=2.0)
    # 4 · 0.5² + 4 · (2 - 1)²
    assert frechet_distance(Moments.of(a), Moments.of(b)) == pytest.approx(5, rel=0.03)


def test_identical_sets_are_0_apart_even_with_fewer_rows_than_features():
    for rows in (500, 5):
        same = Moments.of(normal(rows, 20))
        assert frechet_distance(same, same) == pytest.approx(0, abs=1e-6)


def test_the_frechet_distance_of_few_samples_is_too_large():
    few = frechet_distance(Moments.of(normal(30, 10)), Moments.of(normal(30, 10, seed=1)))
    many = frechet_distance(Moments.of(normal(3000, 10)), Moments.of(normal(3000, 10, seed=1)))
    assert few > 10 * many


def test_the_kernel_distance_of_equal_distributions_is_0_within_its_interval():
    estimates = [kernel_distance(normal(60, seed=i), normal(90, seed=1000 + i)) for i in range(60)]
    inside = [each.low <= 0 <= each.high for each in estimates]
    assert np.mean(inside) >= 0.9
    # Unbiased: below as often as above.
    assert 15 <= sum(each.value < 0 for each in estimates) <= 45


def test_the_kernel_distances_interval_holds_the_true_distance():
    def known(width: int, shift: float) -> float:
        # By many samples, many times more than the estimates below have.
        return kernel_distance(normal(4000, width), normal(4000, width, 1, mean=shift)).value

    truth = known(4, 0.5)
    estimates = [
        kernel_distance(normal(80, seed=i), normal(80, seed=1000 + i, mean=0.5)) for i in range(60)
    ]
    assert np.mean([each.low <= truth <= each.high for each in estimates]) >= 0.85
    assert np.mean([each.value for each in estimates]) == pytest.approx(truth, rel=0.15)


def test_more_samples_narrow_the_interval():
    few = kernel_distance(normal(50), normal(50, seed=1, mean=0.5))
    many = kernel_distance(normal(3000), normal(3000, seed=1, mean=0.5))
    assert many.high - many.low < (few.high - few.low) / 4


def test_blocks_change_nothing(monkeypatch):
    made, real = normal(70), normal(90, seed=1, mean=0.2)
    whole = kernel_distance(made, real)
    monkeypatch.setattr("training.evaluation.metrics.distribution._BLOCK", 32)
    parts = kernel_distance(made, real)
    assert parts.value == pytest.approx(whole.value, abs=1e-12)
    assert parts.high == pytest.approx(whole.high, abs=1e-12)


def test_the_inception_score_counts_classes_that_are_sure_and_even():
    sure = 50 * np.eye(7)[np.arange(700) % 7]
    assert inception_score(sure, splits=1)[0] == pytest.approx(7)
    collapsed = 50 * np.eye(7)[np.zeros(700, int)]
    assert inception_score(collapsed)[0] == pytest.approx(1)
    assert inception_score(np.zeros((700, 7)))[0] == pytest.approx(1)


def test_too_few_rows_are_refused():
    with pytest.raises(ValueError, match="two rows"):
        Moments.of(normal(1))
    with pytest.raises(ValueError, match="three rows"):
        kernel_distance(normal(2), normal(5))
    with pytest.raises(ValueError, match="10 splits"):
        inception_score(normal(9))
