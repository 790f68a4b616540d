"""Translation: from line drawings, or from the images of a second set."""

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
    """Line drawings, which are the edges of the images themselves, to images.

    The amount of smoothing and the threshold of an edge vary from image to image, because people
    draw in more or less detail.
    """

    route: ClassVar[Task] = "translate"

    kind: Literal["sketch"]
    # Smoothing in pixels, and the threshold in gray levels per pixel.
    sigma: tuple[NonNegativeFloat, NonNegativeFloat] = (0.7, 1.2)
    threshold: tuple[PositiveFloat, PositiveFloat] = (8.0, 16.0)

    def given_channels(self, channels: int) -> int:  # noqa: ARG002
        """One: drawings are gray."""
        return 1

    def give(self, pixels: Tensor, rng: np.random.Generator, source: Tensor | None) -> Given:  # noqa: ARG002
        """Return the line drawings of the images."""
        count = len(pixels)
        sigma = torch.from_numpy(rng.uniform(*self.sigma, count)).float()
        threshold = torch.from_numpy(rng.uniform(*self.threshold, count)).float()
        return Given(canny_edges(pixels, sigma, threshold))


class PairsOptions(ImageTask):
    """Images of the second set to those of the same name."""

    route: ClassVar[Task] = "translate"
    needs_source: ClassVar[bool] = True

    kind: Literal["pairs"]

    def give(self, pixels: Tensor, rng: np.random.Generator, source: Tensor | None) -> Given:  # noqa: ARG002
        """Return the images of the second set."""
        assert source is not None  # noqa: S101 - a recipe with this task has one
        return Given(source)
