import numpy as np
import pytest
from scipy import linalg

from training.evaluation.metrics.frechet_distance import Moments, frechet_distance


def normal(count: int, width: int = 4, seed: int = 0, mean=0.0, deviation=1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, deviation, (count, width))


def test_distance_of_known_normal_distributions():
    a = Moments(np.zeros(3), np.diag([1.0, 4.0, 9.0]), 10)
    b = Moments(np.array([1.0, 2.0, 2.0]), np.diag([4.0, 4.0, 1.0]), 10)
    # |m|² = 9; (1 - 2)² + (2 - 2)² + (3 - 1)² = 5.
    assert frechet_distance(a, b) == pytest.approx(14)
    assert frechet_distance(b, a) == pytest.approx(14)


def test_rotation_does_not_change_distance():
    rotation, _ = np.linalg.qr(normal(3, 3))
    a = Moments(np.zeros(3), rotation @ np.diag([1.0, 4.0, 9.0]) @ rotation.T, 10)
    b = Moments(rotation @ [1.0, 2.0, 2.0], rotation @ np.diag([4.0, 4.0, 1.0]) @ rotation.T, 10)
    assert frechet_distance(a, b) == pytest.approx(14)


def test_estimate_from_samples_approaches_true_distance():
    a, b = normal(40_000), normal(40_000, seed=1, mean=0.5, deviation=2.0)
    # 4 · 0.5² + 4 · (2 - 1)²
    assert frechet_distance(Moments.of(a), Moments.of(b)) == pytest.approx(5, rel=0.03)


@pytest.mark.parametrize("rows", [500, 5])
def test_equal_sets_have_distance_0(rows):
    moments = Moments.of(normal(rows, 20))
    assert frechet_distance(moments, moments) == pytest.approx(0, abs=1e-6)


def test_few_samples_bias_distance_upwards():
    few = frechet_distance(Moments.of(normal(30, 10)), Moments.of(normal(30, 10, seed=1)))
    many = frechet_distance(Moments.of(normal(3000, 10)), Moments.of(normal(3000, 10, seed=1)))
    assert few > 10 * many


def test_moments_reject_a_single_row():
    with pytest.raises(ValueError, match="two rows"):
        Moments.of(normal(1))


@pytest.mark.parametrize(("generated", "real"), [(10, 15), (10, 200), (200, 10), (200, 300)])
def test_distance_agrees_with_square_root_of_the_product(generated, real):
    """Fewer samples than features, and more, on either side."""
    a, b = normal(generated, 20), normal(real, 20, seed=1, mean=0.3, deviation=1.5)
    product = np.cov(a, rowvar=False) @ np.cov(b, rowvar=False)
    trace = np.trace(np.cov(a, rowvar=False)) + np.trace(np.cov(b, rowvar=False))
    expected = (
        ((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum() + trace - 2 * np.trace(linalg.sqrtm(product))
    )
    # The root of a singular product has imaginary parts, which are rounding errors.
    assert frechet_distance(Moments.of(a), Moments.of(b)) == pytest.approx(expected.real, rel=1e-5)


def test_factor_gives_covariance():
    for rows in (10, 200):
        moments = Moments.of(normal(rows, 20))
        assert moments.factor.T @ moments.factor == pytest.approx(moments.covariance)
