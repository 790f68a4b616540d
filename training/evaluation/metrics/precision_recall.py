"""Precision, recall, density and coverage: fidelity and diversity, measured separately.

A manifold of images is approximated by balls around their features. The radius of a ball is the
distance to the k-th nearest other feature of the same set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from training.evaluation.metrics import Measurement, Measurements, Metric, feature_metrics
from training.evaluation.metrics.nearest_neighbors import (
    distance_blocks,
    neighbor_radii,
    row_blocks,
)
from training.evaluation.parallel import in_parallel

if TYPE_CHECKING:
    from training.evaluation.features.networks import Features
    from training.evaluation.metrics.kernel_distance import Vectors

# The values of k in the papers.
PRECISION_K = 3
DENSITY_K = 5


@dataclass(frozen=True)
class ManifoldScores:
    """`precision` and `density` of generated images, `recall` and `coverage` of real images.

    All are from 0 to 1, except density, which can exceed 1.
    """

    precision: float
    recall: float
    density: float
    coverage: float


@feature_metrics(
    Metric(
        name="precision",
        title="precision",
        key="precision",
        better="higher",
        order=30,
        unit="share",
        in_validation=True,
        note="share of generated images within the manifold of real images",
    ),
    Metric(
        name="recall",
        title="recall",
        key="recall",
        better="higher",
        order=31,
        unit="share",
        in_validation=True,
        note="share of real images within the manifold of generated images",
    ),
    Metric(
        name="density",
        title="density",
        key="density",
        better="higher",
        order=32,
        note="mean number of real neighborhoods around a generated image, divided by k",
    ),
    Metric(
        name="coverage",
        title="coverage",
        key="coverage",
        better="higher",
        order=33,
        unit="share",
        note="share of real images with a generated image in their neighborhood",
    ),
    equal_counts=True,
)
def measure_precision_recall(generated: Features, real: Features) -> Measurements:
    """Measure all four metrics; empty for fewer than six rows."""
    if min(len(generated), len(real)) <= DENSITY_K:
        return {}
    scores = precision_recall(real.vectors, generated.vectors, real.once(_radii))
    return {name: Measurement(value) for name, value in asdict(scores).items()}


def _radii(real: Features) -> dict[int, NDArray[np.float64]]:
    return neighbor_radii(real.vectors, (PRECISION_K, DENSITY_K))


def precision_recall(
    real: Vectors,
    generated: Vectors,
    real_radii: Mapping[int, NDArray[np.float64]] | None = None,
) -> ManifoldScores:
    """Compare features ``[N, d]`` and ``[M, d]``.

    Precision and recall: Kynkäänniemi et al. 2019, arXiv:1904.06991, k = 3. Density and coverage:
    Naeem et al. 2020, arXiv:2002.09797, k = 5. Both sets should have the same number of rows,
    because the balls of a set become smaller with more rows. `real_radii` are the radii of the
    real balls for both k if they are known. Raises ValueError for fewer than six rows.
    """
    if min(len(real), len(generated)) <= DENSITY_K:
        raise ValueError(
            f"expected at least {DENSITY_K + 1} rows, got {len(real)} and {len(generated)}"
        )
    real_radii = real_radii or neighbor_radii(real, (PRECISION_K, DENSITY_K))
    precision_radius, density_radius = real_radii[PRECISION_K], real_radii[DENSITY_K]
    recall_radius = neighbor_radii(generated, (PRECISION_K,))[PRECISION_K]

    def compare(rows: slice) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.bool_]]:
        part, radius = generated[rows], recall_radius[rows, None]
        precise, balls = np.zeros(len(part), bool), np.zeros(len(part), np.int64)
        # Whether real rows are recalled, and whether they are covered.
        reached = np.zeros((2, len(real)), bool)
        for columns, distances in distance_blocks(part, real):
            precise |= (distances <= precision_radius[columns]).any(axis=1)
            inside = distances <= density_radius[columns]
            balls += inside.sum(axis=1)
            reached[0, columns] = (distances <= radius).any(axis=0)
            reached[1, columns] = inside.any(axis=0)
        return precise, balls, reached

    precise, balls, reached = zip(*in_parallel(compare, row_blocks(generated)), strict=True)
    recalled, covered = np.any(reached, axis=0)
    return ManifoldScores(
        precision=float(np.concatenate(precise).mean()),
        recall=float(recalled.mean()),
        density=float(np.concatenate(balls).mean() / DENSITY_K),
        coverage=float(covered.mean()),
    )


def realism(real: Vectors, generated: Vectors) -> NDArray[np.float64]:
    """Return the realism score ``[M]`` of generated rows; higher is more realistic.

    Kynkäänniemi et al. 2019, arXiv:1904.06991, equation 3: the half of the real balls with the
    largest radii is omitted. Raises ValueError for fewer than four real rows.
    """
    if len(real) <= PRECISION_K:
        raise ValueError(f"expected at least {PRECISION_K + 1} rows, got {len(real)}")
    radii = neighbor_radii(real, (PRECISION_K,))[PRECISION_K]
    kept = radii <= np.median(radii)

    def score(rows: slice) -> NDArray[np.float64]:
        scores = np.zeros(len(generated[rows]))
        for columns, distances in distance_blocks(generated[rows], real[kept]):
            ratios = radii[kept][columns] / np.maximum(distances, 1e-12)
            np.maximum(scores, ratios.max(axis=1), out=scores)
        return scores

    return np.concatenate(list(in_parallel(score, row_blocks(generated))))
