"""The Fréchet distance of FID: the distance between two normal distributions of features.

Implemented here because the usual implementations take the square root of a product of covariances,
which can be complex and fails for singular matrices.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from training.evaluation.metrics import Measurement, Measurements, Metric, feature_metrics

if TYPE_CHECKING:
    from training.evaluation.features.networks import Features
    from training.evaluation.metrics.kernel_distance import Vectors

FRECHET_DISTANCE = Metric(
    name="frechet_distance",
    title="Fréchet distance",
    key="FD",
    better="lower",
    order=20,
    names_network=True,
    inception_key="FID",
    in_validation=True,
    selectable=True,
    note="too large with few samples: compare with the value of real images",
)


@feature_metrics(FRECHET_DISTANCE)
def measure_frechet_distance(generated: Features, real: Features) -> Measurements:
    """Measure the Fréchet distance of two sets of features."""
    value = frechet_distance(generated.once(moments_of), real.once(moments_of))
    return {FRECHET_DISTANCE.name: Measurement(value)}


@dataclass(frozen=True)
class Moments:
    """The mean ``[d]`` and covariance ``[d, d]`` of features, in double precision."""

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    count: int
    # ``[N, d]``: the centered features divided by (N - 1)^½, if there are at most d of them.
    _rows: NDArray[np.float64] | None = field(default=None, repr=False)

    @classmethod
    def of(cls, vectors: Vectors) -> Self:
        """Return the moments of ``[N, d]``. The covariance is the unbiased estimate.

        Raises ValueError for fewer than two rows.
        """
        count = len(vectors)
        if count < 2:
            raise ValueError(f"moments need at least two rows, got {count}")
        mean = vectors.mean(axis=0, dtype=np.float64)
        rows = (vectors.astype(np.float64) - mean) / np.sqrt(count - 1)
        return cls(mean, rows.T @ rows, count, rows if count <= len(mean) else None)

    @property
    def rank(self) -> int:
        """The number of rows of `factor`."""
        return len(self.mean if self._rows is None else self._rows)

    @cached_property
    def factor(self) -> NDArray[np.float64]:
        """A matrix F ``[rank, d]`` whose product ``Fᵀ F`` is the covariance."""
        if self._rows is not None:
            return self._rows
        # Unlike a Cholesky decomposition, this also works for singular covariances.
        values, vectors = np.linalg.eigh(self.covariance)
        root: NDArray[np.float64] = np.sqrt(np.maximum(values, 0))[:, None] * vectors.T
        return root


def moments_of(features: Features) -> Moments:
    """Return the moments of the vectors of a set of features."""
    return Moments.of(features.vectors)


def frechet_distance(a: Moments, b: Moments) -> float:
    """Return the squared Fréchet distance of two normal distributions.

    ``|m₁ - m₂|² + tr(C₁ + C₂ - 2 (C₁ C₂)^½)`` (Dowson and Landau 1982; Heusel et al. 2017,
    arXiv:1706.08500, equation 6). The estimate is biased upwards for few samples.
    """
    difference = a.mean - b.mean
    # With C₁ = F₁ᵀ F₁, the matrices C₁ C₂ and F₁ C₂ F₁ᵀ have the same eigenvalues except zeros, and
    # the second is symmetric: no complex roots, and singular covariances are allowed. With fewer
    # samples than features, it has only as many rows as there are samples. With many, the second
    # set is factorized, because that is the reference of several distances.
    factored, other = (a, b) if a.rank < b.rank else (b, a)
    eigenvalues = np.linalg.eigvalsh(factored.factor @ other.covariance @ factored.factor.T)
    trace = np.sqrt(np.maximum(eigenvalues, 0)).sum()
    distance = difference @ difference + np.trace(a.covariance) + np.trace(b.covariance) - 2 * trace
    # Rounding errors can make the distance of equal sets slightly negative.
    return max(float(distance), 0.0)
