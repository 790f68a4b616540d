import numpy as np
import pytest

from training.evaluation.metrics.precision_recall import precision_recall, realism

CENTERS = 20 * np.eye(6, 8)


def clusters(per_cluster: int, seed: int, kept: int = 6, noise: float = 0.0) -> np.ndarray:
    """Rows around the first of six distant centers, like the classes of a data set."""
    rng = np.random.default_rng(seed)
    rows = np.repeat(CENTERS[:kept], per_cluster, axis=0)
    return rows + rng.normal(0, 1, rows.shape) + rng.normal(0, 1, rows.shape) * noise


@pytest.fixture(scope="module")
def same_distribution():
    return precision_recall(clusters(100, 0), clusters(100, 1))


def test_same_distribution_scores_high(same_distribution):
    assert min(same_distribution.precision, same_distribution.recall) > 0.85
    assert same_distribution.coverage > 0.9
    assert same_distribution.density == pytest.approx(1, abs=0.15)


def test_identical_sets_score_1():
    rows = clusters(50, 0)
    scores = precision_recall(rows, rows)
    assert (scores.precision, scores.recall, scores.coverage) == (1, 1, 1)


def test_missing_classes_lower_recall_and_coverage_only(same_distribution):
    scores = precision_recall(clusters(100, 0), clusters(200, 1, kept=3))
    assert scores.precision >= same_distribution.precision - 0.03
    assert scores.density >= same_distribution.density - 0.1
    assert scores.recall < 0.55
    assert scores.coverage < 0.55


def test_noise_lowers_precision_and_density(same_distribution):
    noisy = precision_recall(clusters(100, 0), clusters(100, 1, noise=2))
    assert noisy.precision < same_distribution.precision / 2
    assert noisy.density < same_distribution.density / 2


def test_realism_is_lower_for_outliers():
    generated = clusters(100, 1)
    generated[::10] += 8
    scores = realism(clusters(100, 0), generated)
    outliers = np.arange(len(generated)) % 10 == 0
    assert scores[outliers].max() < np.median(scores[~outliers])


def test_real_outlier_does_not_inflate_density():
    # The authors' example (section 3.1): the outlier makes precision 1, but not density.
    rng = np.random.default_rng(0)
    real = np.concatenate([rng.normal(0, 1, (200, 2)), [[60.0, 0.0]]])
    generated = rng.uniform(-3, 3, (200, 2)) + np.array([30, 0])
    scores = precision_recall(real, generated)
    assert scores.precision == 1
    assert scores.density < 0.25


def test_rejects_fewer_than_six_rows():
    with pytest.raises(ValueError, match="6 rows"):
        precision_recall(clusters(1, 0, kept=5), clusters(5, 0))
