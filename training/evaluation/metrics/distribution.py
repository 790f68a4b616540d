"""How far apart two sets of features are. Pure functions of arrays; nothing here knows pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, special

Vectors = NDArray[np.float32] | NDArray[np.float64]
# Rows of a block of kernel values: 2¹¹ × 2¹¹ doubles are 32 MiB.
_BLOCK = 2048


@dataclass(frozen=True)
class Moments:
    """The mean ``[d]`` and covariance ``[d, d]`` of features, in double precision."""

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    count: int

    @classmethod
    def of(cls, vectors: Vectors) -> Self:
        """Take the moments of ``[N, d]``; the covariance is the unbiased one, of N - 1.

        Raises ValueError for fewer than two rows.
        """
        if len(vectors) < 2:
            raise ValueError(f"moments need two rows at least, got {len(vectors)}")
        mean = vectors.mean(axis=0, dtype=np.float64)
        centred = vectors.astype(np.float64) - mean
        return cls(mean, centred.T @ centred / (len(vectors) - 1), len(vectors))


def frechet_distance(a: Moments, b: Moments) -> float:
    """Return the squared Fréchet distance of two normal distributions.

    ``|m₁ - m₂|² + tr(C₁ + C₂ - 2 (C₁ C₂)^½)`` (Dowson and Landau 1982; Heusel et al. 2017,
    arXiv:1706.08500, equation 6). Biased upwards where samples are few.
    """
    apart = a.mean - b.mean
    # The eigenvalues of C₁ C₂ are those of C₁^½ C₂ C₁^½, which is symmetric: no complex roots, and
    # a singular covariance does no harm.
    values, vectors = linalg.eigh(a.covariance)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    between = linalg.eigvalsh(root @ b.covariance @ root)
    trace = np.sqrt(np.maximum(between, 0)).sum()
    distance = apart @ apart + np.trace(a.covariance) + np.trace(b.covariance) - 2 * trace
    # Equal sets come out a rounding error away from 0, on either side.
    return max(float(distance), 0.0)


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95% confidence interval."""

    value: float
    low: float
    high: float


def kernel_distance(a: Vectors, b: Vectors) -> Estimate:
    """Return the squared kernel distance of two sets ``[N, d]``, ``[M, d]`` with its interval.

    The unbiased estimate over all pairs (Gretton et al. 2012, equation 3), with the kernel
    ``(x·y / d + 1)³`` of KID (Bińkowski et al. 2018, arXiv:1801.01401), so it may be below 0. The
    interval is the jackknife's over single rows of either set, which errs on the wide side. Raises
    ValueError for fewer than three rows.
    """
    if min(len(a), len(b)) < 3:
        raise ValueError(f"a kernel distance needs three rows, got {len(a)} and {len(b)}")
    within_a, across_a, across_b = _kernel_sums(a, a), *_cross_sums(a, b)
    within_b = _kernel_sums(b, b)
    n, m = len(a), len(b)
    sum_a, sum_b, sum_across = within_a.sum(), within_b.sum(), across_a.sum()

    def estimate(aa: float, bb: float, ab: float, rows_a: int, rows_b: int) -> float:
        return float(
            aa / (rows_a * (rows_a - 1)) + bb / (rows_b * (rows_b - 1)) - 2 * ab / (rows_a * rows_b)
        )

    value = estimate(sum_a, sum_b, sum_across, n, m)
    # What the estimate would be without one row: it takes its pairs away, twice within a set.
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
    reach = 1.96 * float(np.sqrt(variance))
    return Estimate(value, value - reach, value + reach)


def _kernel(a: Vectors, b: Vectors) -> NDArray[np.float64]:
    # In double precision: the three means differ in the fourth digit where sets are alike.
    products = a.astype(np.float64) @ b.astype(np.float64).T
    values: NDArray[np.float64] = (products / a.shape[1] + 1) ** 3
    return values


def _kernel_sums(a: Vectors, b: Vectors) -> NDArray[np.float64]:
    """Return for each row of a set the kernel's sum over its other rows."""
    sums = np.zeros(len(a))
    for start in range(0, len(a), _BLOCK):
        rows = slice(start, start + _BLOCK)
        for other in range(0, len(b), _BLOCK):
            values = _kernel(a[rows], b[other : other + _BLOCK])
            if start == other:
                np.fill_diagonal(values, 0)
            sums[rows] += values.sum(axis=1)
    return sums


def _cross_sums(a: Vectors, b: Vectors) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the kernel's sums over the other set, for the rows of either."""
    of_a, of_b = np.zeros(len(a)), np.zeros(len(b))
    for start in range(0, len(a), _BLOCK):
        rows = slice(start, start + _BLOCK)
        for other in range(0, len(b), _BLOCK):
            columns = slice(other, other + _BLOCK)
            values = _kernel(a[rows], b[columns])
            of_a[rows] += values.sum(axis=1)
            of_b[columns] += values.sum(axis=0)
    return of_a, of_b


def inception_score(logits: Vectors, splits: int = 10, seed: int = 2020) -> tuple[float, float]:
    """Return the Inception Score's mean and standard deviation over `splits` parts.

    ``exp E[KL(p(y|x) ‖ p(y))]`` (Salimans et al. 2016, arXiv:1606.03498) of ``[N, classes]``,
    shuffled first as torch-fidelity shuffles. Raises ValueError for fewer rows than splits.
    """
    if len(logits) < splits:
        raise ValueError(f"{splits} splits need as many rows, got {len(logits)}")
    order = np.random.RandomState(seed).permutation(len(logits))
    log_p = special.log_softmax(logits[order].astype(np.float64), axis=1)
    scores = []
    for i in range(splits):
        part = log_p[i * len(log_p) // splits : (i + 1) * len(log_p) // splits]
        p = np.exp(part)
        divergence = (p * (part - np.log(p.mean(axis=0)))).sum(axis=1)
        scores.append(float(np.exp(divergence.mean())))
    return float(np.mean(scores)), float(np.std(scores))
