import numpy as np
import pytest

from training.evaluation.metrics.precision_recall import coverage, mean_distance, nearest, realism

CENTRES = 20 * np.eye(6, 8)


def clusters(per_cluster: int, seed: int, kept: int = 6, noise: float = 0.0) -> np.ndarray:
    """Rows around some of six centres far apart, as the classes of a data set are."""
    rng = np.random.default_rng(seed)
    rows = np.repeat(CENTRES[:kept], per_cluster, axis=0)
    return rows + rng.normal(0, 1, rows.shape) + rng.normal(0, 1, rows.shape) * noise


def test_samples_of_the_same_distribution_score_high_everywhere():
    found = coverage(clusters(100, 0), clusters(100, 1))
    assert min(found.precision, found.recall) > 0.85
    assert found.coverage > 0.9
    assert found.density == pytest.approx(1, abs=0.15)


def test_identical_sets_are_perfect():
    same = clusters(50, 0)
    found = coverage(same, same)
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)


def test_a_dropped_class_lowers_recall_and_coverage_and_not_precision():
    whole = coverage(clusters(100, 0), clusters(100, 1))
    dropped = coverage(clusters(100, 0), clusters(200, 1, kept=3))
    assert dropped.precision >= whole.precision - 0.03
    assert dropped.density >= whole.density - 0.1
    assert dropped.recall < 0.55
    assert dropped.coverage < 0.55


def test_noise_lowers_precision_and_density():
    clean = coverage(clusters(100, 0), clusters(100, 1))
    noisy = coverage(clusters(100, 0), clusters(100, 1, noise=2))
    assert noisy.precision < clean.precision / 2
    assert noisy.density < clean.density / 2


def test_realism_is_lower_for_outliers():
    made = clusters(100, 1)
    made[::10] += 8
    found = realism(clusters(100, 0), made)
    outliers = np.arange(len(made)) % 10 == 0
    assert found[outliers].max() < np.median(found[~outliers])


def test_an_outlier_among_the_real_ones_does_not_inflate_density():
    # The authors' own example (section 3.1): it makes precision perfect, and density not.
    rng = np.random.default_rng(0)
    real = np.concatenate([rng.normal(0, 1, (200, 2)), [[60.0, 0.0]]])
    made = rng.uniform(-3, 3, (200, 2)) + np.array([30, 0])
    found = coverage(real, made)
    assert found.precision == 1
    assert found.density < 0.25


def test_the_nearest_are_found():
    among = np.eye(4)
    distances, rows = nearest(among[[2, 0]] * 1.5, among, count=2)
    assert rows[:, 0].tolist() == [2, 0]
    assert distances[:, 0] == pytest.approx([0.5, 0.5])
    assert (distances[:, 1] > 0.5).all()


def test_the_mean_distance_in_a_batch_is_that_of_its_pairs():
    rows = np.array([[0.0], [1.0], [3.0], [10.0], [10.0], [10.0], [99.0]])
    assert mean_distance(rows, 3) == pytest.approx(((1 + 3 + 2) / 3 + 0) / 2)
    assert mean_distance(rows[:2], 64) == pytest.approx(1)


def test_too_few_rows_are_refused():
    with pytest.raises(ValueError, match="6 rows"):
        coverage(clusters(1, 0, kept=5), clusters(5, 0))
