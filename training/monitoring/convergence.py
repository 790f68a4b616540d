"""Whether a run converges, judged by its losses, scores and samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

# Mean scores of real and generated images this near to 0.5 mean that neither player leads.
_NEAR_HALF = 0.1
# Images of fixed latents have settled if they change less than this between two samplings, in units
# of the distance between two real images.
_SETTLED = 0.15
# Intervals over which the trend of a loss is fitted, and how many verdicts in a row must agree.
_WINDOW = 10
_AGREE = 3


class Convergence:
    """The state of a run, from ``begins`` to ``converged``."""

    def __init__(self, *, probabilistic: bool) -> None:
        """`probabilistic`: the scores in the log are probabilities."""
        self._probabilistic = probabilistic
        self._losses: dict[str, list[float]] = {"loss_discriminator": [], "loss_generator": []}
        self._scores: tuple[float, ...] = ()
        self._change = math.inf
        self._verdicts: list[str] = []
        self.state = "begins"

    def update(self, metrics: Mapping[str, float]) -> None:
        """Record the metrics of an interval or of a sampling."""
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

    They are level if the line fitted to them moves, from end to end, at most twice their standard
    deviation from it, or by a negligible amount.
    """
    steps = np.arange(len(values))
    slope, start = np.polyfit(steps, values, 1)
    moved = abs(slope) * (len(values) - 1)
    deviation = float(np.std(np.asarray(values) - (start + slope * steps)))
    return bool(moved <= max(2 * deviation, 0.02 * float(np.mean(np.abs(values)))))
