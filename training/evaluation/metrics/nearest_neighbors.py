"""Distances between rows of features, for metrics that are based on nearest neighbors.

This module registers no metric.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from training.evaluation.metrics.kernel_distance import Vectors


def neighbor_radii(vectors: Vectors, ks: tuple[int, ...]) -> dict[int, NDArray[np.float64]]:
    """Return, for each k, the distance ``[N]`` of each row to its k-th nearest other row."""
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=max(ks), algorithm="brute").fit(vectors)
    # Without an argument, kneighbors does not count a row as its own neighbor.
    distances, _ = search.kneighbors()
    return {k: distances[:, k - 1].astype(np.float64) for k in ks}


def nearest(
    vectors: Vectors, among: Vectors, count: int = 1
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return distances and indices ``[N, count]`` of the nearest rows of `among`, nearest first."""
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=min(count, len(among)), algorithm="brute").fit(among)
    distances, rows = search.kneighbors(vectors)
    return distances.astype(np.float64), rows.astype(np.int64)
