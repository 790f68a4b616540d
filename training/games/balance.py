"""Adapts the number of discriminator steps per generator step.

Every turn has one batch of real images and one discriminator step. The generator takes a step in
some of the turns only. Every batch is therefore used, the order of the data does not depend on the
training, and `train.images` remains the number of real images shown to the discriminator.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from training.distributed import DistributedContext
from training.recipe.options import Options

# Turns between two adjustments: each reads a value from the device and waits for it.
_ADJUST_EVERY = 4
# The change in the number of steps at each adjustment.
_CHANGE = 0.25


class BalanceOptions(Options):
    """Adapts the discriminator steps for each generator step, between 1 and `most`."""

    # The desired probability that a real image scores higher than a generated one; 0.5 is chance.
    # If the probability is lower, the discriminator gets more steps; if it is higher, fewer.
    target: float = Field(default=0.8, gt=0.5, lt=1)
    most: int = Field(default=5, ge=2)


class Balance:
    """Decides in which turns the generator takes a step, equally in all processes."""

    def __init__(
        self, options: BalanceOptions, distributed: DistributedContext, device: torch.device
    ) -> None:
        self._options, self._distributed = options, distributed
        # Discriminator steps for each generator step; 2.5 alternates between 2 and 3.
        self.steps = 1.0
        self._owed = 0.0
        self._turns = 0
        self._separation = torch.zeros((), device=device)

    def generator_is_due(self, separation: Tensor) -> bool:
        """Record this turn's separation, and return whether the generator takes a step."""
        self._separation = self._separation + separation
        self._turns += 1
        if self._turns == _ADJUST_EVERY:
            mean = float(self._distributed.mean(self._separation / self._turns))
            change = _CHANGE if mean < self._options.target else -_CHANGE
            self.steps = min(max(self.steps + change, 1.0), float(self._options.most))
            self._turns, self._separation = 0, torch.zeros_like(self._separation)
        self._owed += 1 / self.steps
        if self._owed < 1 - 1e-6:
            return False
        self._owed -= 1
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next turn depends on."""
        return {
            "steps": self.steps,
            "owed": self._owed,
            "turns": self._turns,
            "separation": self._separation,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.steps, self._owed, self._turns = state["steps"], state["owed"], state["turns"]
        self._separation = state["separation"]
