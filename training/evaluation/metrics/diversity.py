"""Diversity: the distance between generated images, relative to real images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from training.evaluation.metrics import Measurement, Measurements, Metric, evaluation_metrics

if TYPE_CHECKING:
    from training.evaluation.metrics.kernel_distance import Vectors
    from training.evaluation.noise.inputs import EvaluationInputs

_BATCH = 64

DIVERSITY = Metric(
    name="diversity",
    title="diversity",
    key="diversity",
    better="as real",
    order=50,
    note=f"mean distance of features in batches of {_BATCH}; the reference has 1",
)


@evaluation_metrics(DIVERSITY)
def measure_diversity(inputs: EvaluationInputs) -> Measurements:
    """Measure the mean distance between two images of a batch, relative to the reference."""
    sets = inputs.features
    unit = max(mean_distance(sets.real.vectors, _BATCH), 1e-12)
    value = mean_distance(sets.generated.vectors, _BATCH) / unit
    real = mean_distance(sets.baseline.vectors, _BATCH) / unit
    return {DIVERSITY.name: Measurement(value, real=real)}


def mean_distance(vectors: Vectors, batch: int) -> float:
    """Return the mean distance between two rows of the same batch, over batches of `batch` rows.

    A smaller last batch is omitted, unless it is the only batch.
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
