import numpy as np
import pytest

from training.evaluation.metrics.diversity import mean_distance

ROWS = np.array([[0.0], [1.0], [3.0], [10.0], [10.0], [10.0], [99.0]])


def test_mean_distance_within_full_batches():
    assert mean_distance(ROWS, 3) == pytest.approx(((1 + 3 + 2) / 3 + 0) / 2)


def test_mean_distance_of_a_single_small_batch():
    assert mean_distance(ROWS[:2], 64) == pytest.approx(1)
