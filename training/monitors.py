"""What a run says about itself: means of the signs over an interval, and whether they are sane."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor

from service.runtime.errors import UserError
from training.distributed import Share

_REMEDY = "lower the learning rates, or train in float32 (device.precision=float32)"


class TrainingDiverged(UserError):
    """A loss is not a number any more; the message says what to change."""

    exit_code = 1


class Signs:
    """Running means of a game's signs.

    They are summed where they were computed, since reading a value waits for the device.
    """

    def __init__(self, share: Share) -> None:
        self._share = share
        self._sums: dict[str, Tensor] = {}
        self._counts: Counter[str] = Counter()

    def add(self, signs: Mapping[str, Tensor]) -> None:
        """Take in the signs of one turn."""
        for name, value in signs.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()
            self._counts[name] += 1

    def take(self) -> dict[str, float]:
        """Return the means over all processes since the last call, and begin anew.

        Raises TrainingDiverged when one of them is not finite.
        """
        means = {}
        for name, total in sorted(self._sums.items()):
            means[name] = float(self._share.mean(total / self._counts[name]))
        self._sums.clear()
        self._counts.clear()
        broken = [name for name, value in means.items() if not math.isfinite(value)]
        if broken:
            raise TrainingDiverged(f"{', '.join(broken)} became {means[broken[0]]}: {_REMEDY}")
        return means


def assert_finite(networks: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Raise TrainingDiverged when a weight of one of the networks is not a number."""
    for name, weights in networks.items():
        for weight in weights.values():
            if not bool(torch.isfinite(weight).all()):
                raise TrainingDiverged(f"a weight of the {name} is not finite: {_REMEDY}")
