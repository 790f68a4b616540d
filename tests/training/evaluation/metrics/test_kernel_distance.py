import numpy as np
import pytest

from training.evaluation.metrics.kernel_distance import kernel_distance, kernel_sums


def normal(count: int, width: int = 4, seed: int = 0, mean: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 1, (count, width))


def test_equal_distributions_have_distance_0():
    estimates = [kernel_distance(normal(60, seed=i), normal(90, seed=1000 + i)) for i in range(60)]
    inside = [each.low <= 0 <= each.high for each in estimates]
    assert np.mean(inside) >= 0.9
    # Unbiased: half of the estimates are negative.
    assert 15 <= sum(each.value < 0 for each in estimates) <= 45


def test_interval_contains_true_distance():
    # Estimated from many more samples than the estimates below.
    truth = kernel_distance(normal(4000), normal(4000, seed=1, mean=0.5)).value
    estimates = [
        kernel_distance(normal(80, seed=i), normal(80, seed=1000 + i, mean=0.5)) for i in range(60)
    ]
    assert np.mean([each.low <= truth <= each.high for each in estimates]) >= 0.85
    assert np.mean([each.value for each in estimates]) == pytest.approx(truth, rel=0.15)


def test_more_samples_narrow_interval():
    few = kernel_distance(normal(50), normal(50, seed=1, mean=0.5))
    many = kernel_distance(normal(3000), normal(3000, seed=1, mean=0.5))
    assert many.high - many.low < (few.high - few.low) / 4


def test_block_size_does_not_change_result(monkeypatch):
    generated, real = normal(70), normal(90, seed=1, mean=0.2)
    one_block = kernel_distance(generated, real)
    monkeypatch.setattr("training.evaluation.metrics.kernel_distance._BLOCK", 32)
    several_blocks = kernel_distance(generated, real)
    assert several_blocks.value == pytest.approx(one_block.value, abs=1e-12)
    assert several_blocks.high == pytest.approx(one_block.high, abs=1e-12)


def test_agrees_with_the_definition():
    generated, real = normal(30), normal(50, seed=1, mean=0.2)

    def mean_kernel(a: np.ndarray, b: np.ndarray, pairs: np.ndarray) -> float:
        return ((a @ b.T / a.shape[1] + 1) ** 3)[pairs].mean()

    expected = (
        mean_kernel(generated, generated, ~np.eye(30, dtype=bool))
        + mean_kernel(real, real, ~np.eye(50, dtype=bool))
        - 2 * mean_kernel(generated, real, np.ones((30, 50), bool))
    )
    assert kernel_distance(generated, real).value == pytest.approx(expected, rel=1e-9)


def test_known_sums_do_not_change_result():
    generated, real = normal(30), normal(50, seed=1, mean=0.2)
    known = kernel_distance(generated, real, kernel_sums(generated), kernel_sums(real))
    assert known == kernel_distance(generated, real)


def test_rejects_fewer_than_three_rows():
    with pytest.raises(ValueError, match="three rows"):
        kernel_distance(normal(2), normal(5))
