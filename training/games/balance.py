"""How many steps of the discriminator go before one of the generator, by how well it does.

Every turn has one batch of real pictures and one step of the discriminator, whatever happens; what
varies is after how many turns the generator takes its own. So no picture is drawn in vain, the
order of the data does not depend on how anybody plays, and `train.images` stays what it is
everywhere: the real pictures that the discriminator was shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from training.distributed import DistributedContext
from training.recipe.options import Options

# Turns between two looks at how well the discriminator does, since reading a value waits for the
# device; and by how much one look changes the steps.
_LOOK_EVERY = 4
_CHANGE = 0.25


class BalanceOptions(Options):
    """From 1 to `most` steps of the discriminator for each of the generator."""

    # How often the discriminator should score a real picture above a generated one: where it does
    # so less often it gets more steps, where more often fewer. 0.5 is guessing.
    target: float = Field(default=0.8, gt=0.5, lt=1)
    most: int = Field(default=5, ge=2)


class Balance:
    """Says in which turns the generator takes a step. All processes say the same."""

    def __init__(
        self, options: BalanceOptions, share: DistributedContext, device: torch.device
    ) -> None:
        self._options, self._share = options, share
        # Between whole numbers the steps alternate: 2.5 is 2 and 3 in turn.
        self.steps = 1.0
        self._owed = 0.0
        self._turns = 0
        self._separation = torch.zeros((), device=device)

    def generators_turn(self, separation: Tensor) -> bool:
        """Take in how the discriminator did, and say whether the generator's step is due."""
        self._separation = self._separation + separation
        self._turns += 1
        if self._turns == _LOOK_EVERY:
            mean = float(self._share.mean(self._separation / self._turns))
            change = _CHANGE if mean < self._options.target else -_CHANGE
            self.steps = min(max(self.steps + change, 1.0), float(self._options.most))
            self._turns, self._separation = 0, torch.zeros_like(self._separation)
        self._owed += 1 / self.steps
        if self._owed < 1 - 1e-6:
            return False
        self._owed -= 1
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return what the next turn depends on."""
        return {
            "steps": self.steps,
            "owed": self._owed,
            "turns": self._turns,
            "separation": self._separation,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.steps, self._owed, self._turns = state["steps"], state["owed"], state["turns"]
        self._separation = state["separation"]
