"""Mean metrics of a log interval, and checks for divergence."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor

from service.runtime.errors import UserError
from training.distributed import DistributedContext

_ADVICE = (
    "lower the learning rates (optimizer.generator.learning_rate, "
    "optimizer.discriminator.learning_rate), set game.clip_gradients=1, "
    "or train in float32 (device.precision=float32)"
)


class TrainingDiverged(UserError):
    """A loss or a weight is not finite. The message names recipe keys to change."""

    exit_code = 1


class MetricWindow:
    """The mean metrics of a game since the last log entry.

    Sums stay on the device, because reading a value synchronizes with the device.
    """

    def __init__(self, distributed: DistributedContext) -> None:
        self._distributed = distributed
        self._sums: dict[str, Tensor] = {}
        self._counts: Counter[str] = Counter()

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Add the metrics of one turn."""
        for name, value in metrics.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()
            self._counts[name] += 1

    def local_means(self) -> dict[str, float]:
        """Return the means of this process since the last `take`, without resetting them."""
        return {
            name: float(total / self._counts[name]) for name, total in sorted(self._sums.items())
        }

    def take(self) -> dict[str, float]:
        """Return the means over all processes since the last call, and reset them.

        Raises TrainingDiverged if one of them is not finite.
        """
        means = {}
        for name, total in sorted(self._sums.items()):
            means[name] = float(self._distributed.mean(total / self._counts[name]))
        self._sums.clear()
        self._counts.clear()
        broken = [name for name, value in means.items() if not math.isfinite(value)]
        if broken:
            raise TrainingDiverged(f"{', '.join(broken)} became {means[broken[0]]}: {_ADVICE}")
        return means


def assert_finite(networks: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Raise TrainingDiverged if a weight of one of the networks is not finite."""
    for name, weights in networks.items():
        for weight in weights.values():
            if not bool(torch.isfinite(weight).all()):
                raise TrainingDiverged(f"a weight of the {name} is not finite: {_ADVICE}")
