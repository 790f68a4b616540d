"""A linear classifier: multinomial logistic regression with an L2 penalty."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
# The penalty of the squared weights, for vectors whose values have a variance of 1 on average.
_PENALTY = 1e-2
_MAX_ITERATIONS = 500


@dataclass(frozen=True)
class LinearClassifier:
    """Scores of classes: ``vectors @ weights + bias``, ``weights [d, classes]``."""

    weights: NDArray[np.float64]
    bias: NDArray[np.float64]

    def probabilities(self, vectors: Floats) -> NDArray[np.float64]:
        """Return the probabilities ``[N, classes]`` for vectors ``[N, d]``."""
        return _softmax(vectors.astype(np.float64) @ self.weights + self.bias)

    def accuracy(self, vectors: Floats, labels: NDArray[np.int64]) -> float:
        """Return the share of vectors whose most probable class is their label."""
        return float((self.probabilities(vectors).argmax(axis=1) == labels).mean())

    def normal(self, first: int, second: int) -> NDArray[np.float64]:
        """Return the normal ``[d]`` of the boundary between two classes, toward `second`."""
        normal: NDArray[np.float64] = self.weights[:, second] - self.weights[:, first]
        return normal


def fit_classifier(vectors: Floats, labels: NDArray[np.int64], classes: int) -> LinearClassifier:
    """Fit a classifier to vectors ``[N, d]`` with labels ``[N]``. Deterministic.

    All values are scaled alike, so that the normal of a boundary stays one in the original space.
    """
    from scipy.optimize import minimize  # noqa: PLC0415 - of the extra `quality`

    values = vectors.astype(np.float64)
    center = values.mean(axis=0)
    scale = max(float((values - center).std()), 1e-12)
    values = (values - center) / scale
    targets = np.eye(classes)[labels]
    count, width = values.shape

    def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        matrix = parameters.reshape(width + 1, classes)
        logits = values @ matrix[:-1] + matrix[-1]
        shifted = logits - logits.max(axis=1, keepdims=True)
        normalizer = np.log(np.exp(shifted).sum(axis=1))
        entropy = (normalizer - (shifted * targets).sum(axis=1)).mean()
        error = (_softmax(logits) - targets) / count
        gradient = np.vstack([values.T @ error + _PENALTY * matrix[:-1], error.sum(axis=0)])
        return float(entropy + _PENALTY / 2 * (matrix[:-1] ** 2).sum()), gradient.ravel()

    start = np.zeros((width + 1) * classes)
    result = minimize(
        loss, start, jac=True, method="L-BFGS-B", options={"maxiter": _MAX_ITERATIONS}
    )
    matrix = np.asarray(result.x).reshape(width + 1, classes)
    weights = matrix[:-1] / scale
    return LinearClassifier(weights, matrix[-1] - center @ weights)


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float64] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities
