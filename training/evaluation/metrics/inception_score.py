"""The Inception Score: how certain and how diverse the predicted classes are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from training.evaluation.metrics import Measurement, Measurements, Metric, feature_metrics

if TYPE_CHECKING:
    from training.evaluation.features.networks import Features
    from training.evaluation.metrics.kernel_distance import Vectors

SPLITS = 10

INCEPTION_SCORE = Metric(
    name="inception_score",
    title="Inception Score",
    key="IS",
    better="higher",
    order=40,
    names_network=True,
    inception_key="IS",
)


@feature_metrics(INCEPTION_SCORE)
def measure_inception_score(generated: Features, real: Features) -> Measurements:  # noqa: ARG001
    """Measure the score; empty without a classifier or with too few images."""
    if generated.logits is None or len(generated) < SPLITS:
        return {}
    mean, deviation = inception_score(generated.logits, SPLITS)
    note = f"mean of {SPLITS} parts, standard deviation {deviation:.2g}"
    return {INCEPTION_SCORE.name: Measurement(mean, note=note)}


def inception_score(logits: Vectors, splits: int = SPLITS, seed: int = 2020) -> tuple[float, float]:
    """Return the mean and the standard deviation of the Inception Score over `splits` parts.

    The score is ``exp E[KL(p(y|x) ‖ p(y))]`` (Salimans et al. 2016, arXiv:1606.03498), computed
    from logits ``[N, classes]``. Rows are shuffled in the same way as in torch-fidelity. Raises
    ValueError for fewer rows than splits.
    """
    if len(logits) < splits:
        raise ValueError(f"{splits} splits need at least as many rows, got {len(logits)}")
    order = np.random.RandomState(seed).permutation(len(logits))
    log_p = _log_softmax(logits[order].astype(np.float64))
    scores = []
    for i in range(splits):
        part = log_p[i * len(log_p) // splits : (i + 1) * len(log_p) // splits]
        p = np.exp(part)
        divergence = (p * (part - np.log(p.mean(axis=0)))).sum(axis=1)
        scores.append(float(np.exp(divergence.mean())))
    return float(np.mean(scores)), float(np.std(scores))


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result
