import numpy as np
import pytest
from scipy.spatial.distance import cdist

from training.evaluation.metrics import nearest_neighbors
from training.evaluation.metrics.nearest_neighbors import (
    distance_blocks,
    nearest,
    neighbor_radii,
)


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


@pytest.fixture(params=[(3, 5), (256, 4096)])
def block_size(request, monkeypatch):
    """Sizes of blocks that divide the sets below, and that do not."""
    monkeypatch.setattr(nearest_neighbors, "_ROWS", request.param[0])
    monkeypatch.setattr(nearest_neighbors, "_COLUMNS", request.param[1])


@pytest.mark.usefixtures("block_size")
def test_searches_agree_with_sorted_distances():
    rng = np.random.default_rng(0)
    vectors, among = (rng.normal(0, 9, (count, 7)).astype(np.float32) for count in (20, 33))
    expected = cdist(vectors, among)
    distances, rows = nearest(vectors, among, count=3)
    assert rows.tolist() == np.argsort(expected, axis=1)[:, :3].tolist()
    assert distances == pytest.approx(np.sort(expected, axis=1)[:, :3])
    radii = neighbor_radii(among, (2, 6))
    # Column 0 is the row itself.
    own = np.sort(cdist(among, among), axis=1)
    assert radii[2] == pytest.approx(own[:, 2])
    assert radii[6] == pytest.approx(own[:, 6])


@pytest.mark.usefixtures("block_size")
def test_blocks_cover_all_distances():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, (6, 4)), rng.normal(0, 1, (13, 4))
    found = np.full((6, 13), np.nan)
    for columns, distances in distance_blocks(a, b):
        found[:, columns] = distances
    assert found == pytest.approx(cdist(a, b))


def test_all_rows_are_found_if_there_are_few():
    distances, rows = nearest(np.zeros((1, 2)), np.ones((2, 2)), count=5)
    assert distances.shape == rows.shape == (1, 2)
