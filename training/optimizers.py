"""The section `optimizer` of a recipe: one optimizer for each player."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from training.recipe.choices import OneOf
from training.recipe.options import Options

Beta = Annotated[float, Field(ge=0, lt=1)]


class PlayerOptimizerOptions(Options, ABC):
    """The optimizer of one player."""

    algorithm: str
    learning_rate: float

    @abstractmethod
    def build(self, network: nn.Module, every: int = 1) -> torch.optim.Optimizer:
        """Return an optimizer for the weights of `network`.

        With `every` above 1, lazy regularization takes one more step after that number of steps.
        The rates are those for which all these steps have the same effect as the steps without it
        (StyleGAN2, arXiv:1912.04958, appendix B).
        """


def _lazy(every: int) -> float:
    """Return c = k / (k + 1), the share of the steps that are not additional ones."""
    return every / (every + 1) if every > 1 else 1.0


class AdamOptions(PlayerOptimizerOptions):
    """Adam (Kingma and Ba 2014, arXiv:1412.6980)."""

    algorithm: Literal["adam"] = "adam"
    learning_rate: float = Field(default=2e-4, gt=0)
    betas: tuple[Beta, Beta] = (0.5, 0.999)

    def build(self, network: nn.Module, every: int = 1) -> torch.optim.Optimizer:
        """Return an optimizer for the weights of `network`."""
        share = _lazy(every)
        return torch.optim.Adam(
            network.parameters(),
            lr=self.learning_rate * share,
            betas=(self.betas[0] ** share, self.betas[1] ** share),
        )


class RMSPropOptions(PlayerOptimizerOptions):
    """RMSProp, which WGAN with weight clipping uses instead of Adam (arXiv:1701.07875)."""

    algorithm: Literal["rmsprop"]
    learning_rate: float = Field(default=5e-5, gt=0)

    def build(self, network: nn.Module, every: int = 1) -> torch.optim.Optimizer:
        """Return an optimizer for the weights of `network`."""
        share = _lazy(every)
        return torch.optim.RMSprop(
            network.parameters(), lr=self.learning_rate * share, alpha=0.99**share
        )


PlayerOptimizer = Annotated[PlayerOptimizerOptions, OneOf("algorithm", default="adam")]


class OptimizerOptions(Options):
    """One optimizer for each player, so that learning rates may differ (TTUR, arXiv:1706.08500)."""

    generator: PlayerOptimizer = AdamOptions()
    discriminator: PlayerOptimizer = AdamOptions()
    # After this fraction of the run, both learning rates decay linearly to 0 at its end.
    decay_from: float | None = Field(default=None, ge=0, lt=1)
