"""The Fréchet distance of FID: the distance between two normal distributions of features.

Implemented here because the usual implementations take the square root of a product of covariances,
which can be complex and fails for singular matrices.
"""

from __future__ import annotations

from dataclasses import dataclass
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
    value = frechet_distance(Moments.of(generated.vectors), Moments.of(real.vectors))
    return {FRECHET_DISTANCE.name: Measurement(value)}


@dataclass(frozen=True)
class Moments:
    """The mean ``[d]`` and covariance ``[d, d]`` of features, in double precision."""

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    count: int

    @classmethod
    def of(cls, vectors: Vectors) -> Self:
        """Return the moments of ``[N, d]``. The covariance is the unbiased estimate.

        Raises ValueError for fewer than two rows.
        """
        if len(vectors) < 2:
            raise ValueError(f"moments need at least two rows, got {len(vectors)}")
        mean = vectors.mean(axis=0, dtype=np.float64)
        centered = vectors.astype(np.float64) - mean
        return cls(mean, centered.T @ centered / (len(vectors) - 1), len(vectors))


def frechet_distance(a: Moments, b: Moments) -> float:
    """Return the squared Fréchet distance of two normal distributions.

    ``|m₁ - m₂|² + tr(C₁ + C₂ - 2 (C₁ C₂)^½)`` (Dowson and Landau 1982; Heusel et al. 2017,
    arXiv:1706.08500, equation 6). The estimate is biased upwards for few samples.
    """
    from scipy import linalg

    difference = a.mean - b.mean
    # C₁ C₂ and the symmetric C₁^½ C₂ C₁^½ have the same eigenvalues: no complex roots, and
    # singular covariances are allowed.
    values, vectors = linalg.eigh(a.covariance)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    eigenvalues = linalg.eigvalsh(root @ b.covariance @ root)
    trace = np.sqrt(np.maximum(eigenvalues, 0)).sum()
    distance = difference @ difference + np.trace(a.covariance) + np.trace(b.covariance) - 2 * trace
    # Rounding errors can make the distance of equal sets slightly negative.
    return max(float(distance), 0.0)
