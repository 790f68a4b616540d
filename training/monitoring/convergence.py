"""Detects convergence from the losses, scores and samples of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

# Neither player leads if the mean scores of real and generated images are this close to 0.5.
_NEAR_HALF = 0.1
# Images of fixed latents have settled if they change by less than this between two samplings,
# relative to the distance between two real images.
_SETTLED = 0.15
# Number of intervals for the trend of a loss, and of equal verdicts in a row that change the state.
_WINDOW = 10
_AGREE = 3


class Convergence:
    """The state of a run, from ``begins`` to ``converged``."""

    def __init__(self, *, probabilistic: bool) -> None:
        """Set `probabilistic` if the scores in the log are probabilities."""
        self._probabilistic = probabilistic
        self._losses: dict[str, list[float]] = {"loss_discriminator": [], "loss_generator": []}
        self._scores: tuple[float, ...] = ()
        self._change = math.inf
        self._verdicts: list[str] = []
        self.state = "begins"

    def update(self, metrics: Mapping[str, float]) -> None:
        """Record the metrics of a log interval or of a sample sheet."""
        self._change = metrics.get("change", self._change)
        if "loss_discriminator" not in metrics:
            return
        for name, values in self._losses.items():
            if name in metrics:
                values.append(metrics[name])
                del values[:-_WINDOW]
        if self._probabilistic:
            self._scores = metrics["real_score"], metrics["fake_score"]
        self._verdicts = [*self._verdicts, self._verdict()][-_AGREE:]
        if self._verdicts == self._verdicts[:1] * _AGREE:
            self.state = self._verdicts[0]

    def _verdict(self) -> str:
        if any(len(values) < _WINDOW for values in self._losses.values()):
            return "begins"
        if not all(is_level(values) for values in self._losses.values()):
            return "learning"
        even = all(abs(score - 0.5) < _NEAR_HALF for score in self._scores)
        return "converged" if even and self._change < _SETTLED else "converging"


def is_level(values: Sequence[float]) -> bool:
    """Return whether at least three values neither rise nor fall.

    A line is fitted to the values. They are level if it rises or falls by at most twice the
    standard deviation of the residuals, or by at most 2 % of the mean absolute value.
    """
    steps = np.arange(len(values))
    slope, start = np.polyfit(steps, values, 1)
    moved = abs(slope) * (len(values) - 1)
    deviation = float(np.std(np.asarray(values) - (start + slope * steps)))
    return bool(moved <= max(2 * deviation, 0.02 * float(np.mean(np.abs(values)))))
