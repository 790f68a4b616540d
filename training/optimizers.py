"""What a recipe says of the players' optimisers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Discriminator, Field, Tag
from torch import nn

from training.recipe.options import Options

Beta = Annotated[float, Field(ge=0, lt=1)]


class AdamOptions(Options):
    """Adam (Kingma and Ba 2014, arXiv:1412.6980)."""

    algorithm: Literal["adam"] = "adam"
    learning_rate: float = Field(default=2e-4, gt=0)
    betas: tuple[Beta, Beta] = (0.5, 0.999)

    def build(self, network: nn.Module) -> torch.optim.Optimizer:
        """Make the optimiser of `network`'s weights."""
        return torch.optim.Adam(network.parameters(), lr=self.learning_rate, betas=self.betas)


class RMSPropOptions(Options):
    """RMSProp, which WGAN with clipped weights wants in place of momentum (arXiv:1701.07875)."""

    algorithm: Literal["rmsprop"]
    learning_rate: float = Field(default=5e-5, gt=0)

    def build(self, network: nn.Module) -> torch.optim.Optimizer:
        """Make the optimiser of `network`'s weights."""
        return torch.optim.RMSprop(network.parameters(), lr=self.learning_rate)


def _algorithm(given: Any) -> str:
    """Adam where nothing else is said."""
    if isinstance(given, dict):
        return str(given.get("algorithm", "adam"))
    return str(given.algorithm)


PlayerOptimizer = Annotated[
    Annotated[AdamOptions, Tag("adam")] | Annotated[RMSPropOptions, Tag("rmsprop")],
    Discriminator(_algorithm),
]


class OptimizerOptions(Options):
    """Each player has its own, so that learning rates may differ (TTUR, arXiv:1706.08500)."""

    generator: PlayerOptimizer = AdamOptions()
    discriminator: PlayerOptimizer = AdamOptions()
    # From this share of the run on both learning rates fall, linearly, to nothing at its end.
    decay_from: float | None = Field(default=None, ge=0, lt=1)
