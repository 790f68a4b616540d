"""The kernel distance of KID: the squared maximum mean discrepancy of two sets of features.

Implemented here because the usual implementations average over random subsets. The estimate over
all pairs has a smaller variance and provides a confidence interval.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from training.evaluation.metrics import Measurement, Measurements, Metric, feature_metrics
from training.evaluation.parallel import in_parallel

if TYPE_CHECKING:
    from training.evaluation.features.networks import Features

Vectors = NDArray[np.float32] | NDArray[np.float64]
# The standard normal quantile of a 95% interval.
_QUANTILE = 1.96
# The number of rows in a block of kernel values. 2¹⁰ × 2¹⁰ doubles are 8 MiB.
_BLOCK = 1024

KERNEL_DISTANCE = Metric(
    name="kernel_distance",
    title="kernel distance",
    key="KID",
    better="lower",
    order=10,
    decimals=5,
    names_network=True,
    inception_key="KID",
    in_validation=True,
    selectable=True,
    note="unbiased, over all pairs; 95% interval by the jackknife",
)


@feature_metrics(KERNEL_DISTANCE)
def measure_kernel_distance(generated: Features, real: Features) -> Measurements:
    """Measure the kernel distance of two sets of features."""
    distance = kernel_distance(
        generated.vectors, real.vectors, generated.once(_sums_within), real.once(_sums_within)
    )
    return {KERNEL_DISTANCE.name: distance}


def kernel_distance(
    a: Vectors,
    b: Vectors,
    sums_a: NDArray[np.float64] | None = None,
    sums_b: NDArray[np.float64] | None = None,
) -> Measurement:
    """Return the squared kernel distance of ``[N, d]`` and ``[M, d]`` with its 95% interval.

    This is the unbiased estimate over all pairs (Gretton et al. 2012, equation 3), with the kernel
    ``(x·y / d + 1)³`` of KID (Bińkowski et al. 2018, arXiv:1801.01401). It can be negative. The
    interval is computed by the jackknife over single rows of both sets, and tends to be too wide.
    `sums_a` and `sums_b` are the `kernel_sums` of the sets if they are known. Raises ValueError for
    fewer than three rows.
    """
    if min(len(a), len(b)) < 3:
        raise ValueError(f"a kernel distance needs three rows, got {len(a)} and {len(b)}")
    within_a = kernel_sums(a) if sums_a is None else sums_a
    within_b = kernel_sums(b) if sums_b is None else sums_b
    across_a, across_b = _cross_sums(a, b)
    n, m = len(a), len(b)
    sum_a, sum_b, sum_across = within_a.sum(), within_b.sum(), across_a.sum()
    value = sum_a / (n * (n - 1)) + sum_b / (m * (m - 1)) - 2 * sum_across / (n * m)
    # The estimates without one row. Within a set, each pair is counted twice.
    without_a = (
        (sum_a - 2 * within_a) / ((n - 1) * (n - 2))
        + sum_b / (m * (m - 1))
        - 2 * (sum_across - across_a) / ((n - 1) * m)
    )
    without_b = (
        sum_a / (n * (n - 1))
        + (sum_b - 2 * within_b) / ((m - 1) * (m - 2))
        - 2 * (sum_across - across_b) / (n * (m - 1))
    )
    variance = (n - 1) / n * ((without_a - without_a.mean()) ** 2).sum()
    variance += (m - 1) / m * ((without_b - without_b.mean()) ** 2).sum()
    margin = _QUANTILE * float(np.sqrt(variance))
    return Measurement(float(value), float(value) - margin, float(value) + margin)


def _sums_within(features: Features) -> NDArray[np.float64]:
    return kernel_sums(features.vectors)


def _kernel(a: Vectors, b: Vectors) -> NDArray[np.float64]:
    # Double precision is needed: for similar sets the three means differ only in the fourth digit.
    values: NDArray[np.float64] = a.astype(np.float64) @ b.astype(np.float64).T
    values /= a.shape[1]
    values += 1
    # NumPy computes a third power as a general power, which takes longer than the products.
    values *= values * values
    return values


def kernel_sums(vectors: Vectors) -> NDArray[np.float64]:
    """Return, for each row, the sum of the kernel over the other rows of the set.

    The kernel is symmetric, so each pair of blocks is computed once.
    """
    sums = np.zeros(len(vectors))
    blocks = _blocks(vectors)
    pairs = [(a, b) for i, a in enumerate(blocks) for b in blocks[i:]]

    def block_sums(pair: tuple[slice, slice]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        values = _kernel(vectors[pair[0]], vectors[pair[1]])
        if pair[0] == pair[1]:
            np.fill_diagonal(values, 0)
        return values.sum(axis=1), values.sum(axis=0)

    for (a, b), (of_a, of_b) in zip(pairs, in_parallel(block_sums, pairs), strict=True):
        sums[a] += of_a
        if a != b:
            sums[b] += of_b
    return sums


def _cross_sums(a: Vectors, b: Vectors) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return, for each row of both sets, the sum of the kernel over the other set."""
    of_a, of_b = np.zeros(len(a)), np.zeros(len(b))
    pairs = [(rows, columns) for rows in _blocks(a) for columns in _blocks(b)]

    def block_sums(pair: tuple[slice, slice]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        values = _kernel(a[pair[0]], b[pair[1]])
        return values.sum(axis=1), values.sum(axis=0)

    for (rows, columns), sums in zip(pairs, in_parallel(block_sums, pairs), strict=True):
        of_a[rows] += sums[0]
        of_b[columns] += sums[1]
    return of_a, of_b


def _blocks(vectors: Vectors) -> list[slice]:
    return [slice(start, start + _BLOCK) for start in range(0, len(vectors), _BLOCK)]
