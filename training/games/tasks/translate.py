"""Image translation: from line drawings, or from a second data set with equal image names."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from service.runtime.models.parts.tasks import Task
from training.data.edges import canny_edges
from training.games.tasks.task import ImageTask, TaskInputs


class SketchOptions(ImageTask):
    """Translates line drawings to images. The drawings are the edges of the target images.

    Smoothing and edge threshold vary from image to image, because the level of detail of drawings
    varies.
    """

    route: ClassVar[Task] = "translate"

    kind: Literal["sketch"]
    # Smoothing in pixels, and the threshold in gray levels per pixel.
    sigma: tuple[NonNegativeFloat, NonNegativeFloat] = (0.7, 1.2)
    threshold: tuple[PositiveFloat, PositiveFloat] = (8.0, 16.0)

    def input_channels(self, channels: int) -> int:  # noqa: ARG002
        """Return 1: drawings are gray."""
        return 1

    def derive_inputs(
        self,
        pixels: Tensor,
        rng: np.random.Generator,
        source: Tensor | None,  # noqa: ARG002
    ) -> TaskInputs:
        """Return line drawings of the targets."""
        count = len(pixels)
        sigma = torch.from_numpy(rng.uniform(*self.sigma, count)).float()
        threshold = torch.from_numpy(rng.uniform(*self.threshold, count)).float()
        return TaskInputs(canny_edges(pixels, sigma, threshold))


class PairsOptions(ImageTask):
    """Translates images of a second set to the target images with the same names."""

    route: ClassVar[Task] = "translate"
    needs_source: ClassVar[bool] = True

    kind: Literal["pairs"]

    def derive_inputs(
        self,
        pixels: Tensor,  # noqa: ARG002
        rng: np.random.Generator,  # noqa: ARG002
        source: Tensor | None,
    ) -> TaskInputs:
        """Return the source images, which are the generator's input."""
        assert source is not None  # noqa: S101 - ensured by the recipe's validation
        return TaskInputs(source)
