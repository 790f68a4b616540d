"""Distances between rows of features, for metrics that are based on nearest neighbors.

Implemented here because importing scikit-learn takes longer than these searches usually do. This
module registers no metric.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from training.evaluation.parallel import in_parallel

if TYPE_CHECKING:
    from training.evaluation.metrics.kernel_distance import Vectors

# The numbers of rows of both sets in a block of distances: 8 MiB of doubles, which fit in a cache.
_ROWS, _COLUMNS = 256, 4096


def neighbor_radii(vectors: Vectors, ks: tuple[int, ...]) -> dict[int, NDArray[np.float64]]:
    """Return, for each k, the distance ``[N]`` of each row to its k-th nearest other row."""
    distances, _ = _search(vectors, vectors, min(max(ks), len(vectors) - 1), other=True)
    return {k: distances[:, k - 1] for k in ks}


def nearest(
    vectors: Vectors, among: Vectors, count: int = 1
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return distances and indices ``[N, count]`` of the nearest rows of `among`, nearest first."""
    return _search(vectors, among, min(count, len(among)), other=False)


def row_blocks(vectors: Vectors) -> list[slice]:
    """Return slices of the rows, for `distance_blocks`."""
    return [slice(start, start + _ROWS) for start in range(0, len(vectors), _ROWS)]


def distance_blocks(a: Vectors, b: Vectors) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Yield the Euclidean distances of all rows of `a` to blocks of rows of `b`.

    Each item is a slice of the rows of `b`, and their distances ``[len(a), columns]``.
    """
    squares = _squares(a)[:, None]
    for columns, values in _relative_squares(a, b):
        distances = np.maximum(values + squares, 0)
        yield columns, np.sqrt(distances, out=distances)


def _relative_squares(a: Vectors, b: Vectors) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Yield squared distances, less the square of the row of `a`, which keeps their order.

    Computed in double precision, because distances of near copies are small differences of large
    squares.
    """
    x = -2 * a.astype(np.float64)
    for start in range(0, len(b), _COLUMNS):
        columns = slice(start, min(start + _COLUMNS, len(b)))
        y = b[columns].astype(np.float64)
        values: NDArray[np.float64] = x @ y.T
        values += _squares(y)
        yield columns, values


def _squares(vectors: Vectors) -> NDArray[np.float64]:
    x = vectors.astype(np.float64)
    squares: NDArray[np.float64] = np.einsum("nd,nd->n", x, x)
    return squares


def _search(
    vectors: Vectors, among: Vectors, count: int, *, other: bool
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the nearest rows. With `other`, a row is not its own neighbor."""

    def search(rows: slice) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        part = vectors[rows]
        best = np.full((len(part), count), np.inf)
        best_rows = np.zeros((len(part), count), np.int64)
        for columns, values in _relative_squares(part, among):
            if other:
                own = np.arange(len(part)) + rows.start - columns.start
                inside = (own >= 0) & (own < values.shape[1])
                values[inside, own[inside]] = np.inf
            found, found_rows = _smallest(values, count)
            both = np.concatenate([best, found], axis=1)
            both_rows = np.concatenate([best_rows, found_rows + columns.start], axis=1)
            order = np.argsort(both, axis=1, kind="stable")[:, :count]
            best = np.take_along_axis(both, order, axis=1)
            best_rows = np.take_along_axis(both_rows, order, axis=1)
        return np.sqrt(np.maximum(best + _squares(part)[:, None], 0)), best_rows

    parts = list(in_parallel(search, row_blocks(vectors)))
    return (
        np.concatenate([distances for distances, _ in parts]),
        np.concatenate([rows for _, rows in parts]),
    )


def _smallest(
    values: NDArray[np.float64], count: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the `count` smallest values of each row, in order, and their columns.

    Overwrites them with infinity. Searching for a few minima is faster than partitioning.
    """
    rows = np.arange(len(values))
    smallest, columns = [], []
    for _ in range(min(count, values.shape[1])):
        column = values.argmin(axis=1)
        smallest.append(values[rows, column])
        columns.append(column)
        values[rows, column] = np.inf
    return np.stack(smallest, axis=1), np.stack(columns, axis=1)
