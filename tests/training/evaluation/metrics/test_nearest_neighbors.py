import numpy as np
import pytest

from training.evaluation.metrics.nearest_neighbors import nearest, neighbor_radii


def test_nearest_rows_come_first():
    among = np.eye(4)
    distances, rows = nearest(among[[2, 0]] * 1.5, among, count=2)
    assert rows[:, 0].tolist() == [2, 0]
    assert distances[:, 0] == pytest.approx([0.5, 0.5])
    assert (distances[:, 1] > 0.5).all()


def test_radii_do_not_count_the_row_itself():
    radii = neighbor_radii(np.array([[0.0], [1.0], [4.0]]), (1, 2))
    assert radii[1].tolist() == [1, 1, 3]
    assert radii[2].tolist() == [4, 3, 4]
