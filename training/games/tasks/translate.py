"""From one kind of picture to another: from line drawings, or from pictures of a second set."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from service.runtime.models.manifest import Task
from training.data.edges import canny_edges
from training.games.tasks.task import Given, ImageTask


class SketchOptions(ImageTask):
    """Line drawings, made of the pictures themselves, to pictures.

    How much is smoothed away and how steep a line must be varies from picture to picture, since
    people leave out more or less.
    """

    route: ClassVar[Task] = "translate"

    kind: Literal["sketch"]
    # In pixels, and in levels a pixel.
    sigma: tuple[NonNegativeFloat, NonNegativeFloat] = (0.7, 1.2)
    threshold: tuple[PositiveFloat, PositiveFloat] = (8.0, 16.0)

    def given_channels(self, channels: int) -> int:  # noqa: ARG002 - lines are grey
        """One: lines are grey."""
        return 1

    def give(self, pixels: Tensor, rng: np.random.Generator, source: Tensor | None) -> Given:  # noqa: ARG002
        """Draw the lines of the pictures."""
        count = len(pixels)
        sigma = torch.from_numpy(rng.uniform(*self.sigma, count)).float()
        threshold = torch.from_numpy(rng.uniform(*self.threshold, count)).float()
        return Given(canny_edges(pixels, sigma, threshold))


class PairsOptions(ImageTask):
    """Pictures of the second set to those of the same name."""

    route: ClassVar[Task] = "translate"
    needs_source: ClassVar[bool] = True

    kind: Literal["pairs"]

    def give(self, pixels: Tensor, rng: np.random.Generator, source: Tensor | None) -> Given:  # noqa: ARG002
        """Give the pictures of the second set."""
        assert source is not None  # noqa: S101 - the recipe sees to it
        return Given(source)
