"""What generated pictures cover of the real ones, and how many of them lie among these.

The real manifold is the union of balls around real features, as far as the k-th nearest other one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import pairwise_distances_chunked
from sklearn.neighbors import NearestNeighbors

from training.evaluation.metrics.distribution import Vectors

# The authors' own choices.
PRECISION_K = 3
DENSITY_K = 5


@dataclass(frozen=True)
class Coverage:
    """Four shares of one: `precision`, `density` of what is generated, `recall`, `coverage`.

    Density alone may exceed 1.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def coverage(real: Vectors, made: Vectors) -> Coverage:
    """Compare two sets of features ``[N, d]``, ``[M, d]``.

    Precision and recall: Kynkäänniemi et al. 2019, arXiv:1904.06991, k = 3. Density and coverage:
    Naeem et al. 2020, arXiv:2002.09797, k = 5. All four depend on the counts, which should be
    equal: the more rows a set has, the smaller its balls. Raises ValueError for fewer than six
    rows.
    """
    if min(len(real), len(made)) <= DENSITY_K:
        raise ValueError(f"expected {DENSITY_K + 1} rows at least, got {len(real)}, {len(made)}")
    radii = radius(real, (PRECISION_K, DENSITY_K))
    near, wide = radii[PRECISION_K], radii[DENSITY_K]
    made_near = radius(made, (PRECISION_K,))[PRECISION_K]
    precise, dense = [], []
    recalled = np.zeros(len(real), bool)
    covered = np.zeros(len(real), bool)
    start = 0
    for distances in pairwise_distances_chunked(made, real):
        rows = slice(start, start + len(distances))
        start = rows.stop
        precise.append((distances <= near).any(axis=1))
        recalled |= (distances <= made_near[rows, None]).any(axis=0)
        inside = distances <= wide
        dense.append(inside.sum(axis=1))
        covered |= inside.any(axis=0)
    return Coverage(
        precision=float(np.concatenate(precise).mean()),
        recall=float(recalled.mean()),
        density=float(np.concatenate(dense).mean() / DENSITY_K),
        coverage=float(covered.mean()),
    )


def realism(real: Vectors, made: Vectors) -> NDArray[np.float64]:
    """Return ``[N]``, larger where a generated row lies deeper among real ones.

    Kynkäänniemi et al. 2019, arXiv:1904.06991, equation 3: the balls of real pictures that are far
    from all others are left out. Raises ValueError for fewer than four real rows.
    """
    if len(real) <= PRECISION_K:
        raise ValueError(f"expected {PRECISION_K + 1} rows at least, got {len(real)}")
    near = radius(real, (PRECISION_K,))[PRECISION_K]
    trusted = near <= np.median(near)
    parts = [
        (near[trusted] / np.maximum(distances, 1e-12)).max(axis=1)
        for distances in pairwise_distances_chunked(made, real[trusted])
    ]
    found: NDArray[np.float64] = np.concatenate(parts)
    return found


def radius(vectors: Vectors, neighbours: tuple[int, ...]) -> dict[int, NDArray[np.float64]]:
    """Return how far each row's k-th nearest other row is, for each k of `neighbours`."""
    search = NearestNeighbors(n_neighbors=max(neighbours), algorithm="brute").fit(vectors)
    # Without an argument, a row is no neighbour of its own.
    distances, _ = search.kneighbors()
    return {k: distances[:, k - 1].astype(np.float64) for k in neighbours}


def nearest(
    vectors: Vectors, among: Vectors, count: int = 1
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the distances and rows ``[N, count]`` of the nearest of `among`, the nearest first."""
    search = NearestNeighbors(n_neighbors=min(count, len(among)), algorithm="brute").fit(among)
    distances, rows = search.kneighbors(vectors)
    return distances.astype(np.float64), rows.astype(np.int64)


def mean_distance(vectors: Vectors, batch: int) -> float:
    """Return the mean distance of two rows of the same batch, over whole batches of `batch`.

    A last batch that is not whole is left out, unless it is the only one.
    """
    batch = min(batch, len(vectors))
    means = []
    for start in range(0, len(vectors) - batch + 1, batch):
        part = vectors[start : start + batch].astype(np.float64)
        squares = (part**2).sum(axis=1)
        distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * part @ part.T, 0))
        np.fill_diagonal(distances, 0)
        means.append(distances.sum() / max(batch * (batch - 1), 1))
    return float(np.mean(means))
