"""Upscaling (super-resolution)."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from torch import Tensor

from service.runtime.models.manifest import Task
from training.data.degradations import degrade, downscale
from training.games.tasks.task import Given, ImageTask


class UpscaleOptions(ImageTask):
    """Images to images with `factor` times the side."""

    route: ClassVar[Task] = "upscale"

    kind: Literal["upscale"]
    factor: Literal[2, 4] = 4
    # How inputs were made small: bicubic downscaling, or the degradations of real photographs.
    degradation: Literal["bicubic", "blind"] = "bicubic"

    @property
    def scale(self) -> int:
        """The factor."""
        return self.factor

    def check(self, resolution: int, channels: int) -> None:  # noqa: ARG002 - any channels
        """Raise ValueError unless the side is a multiple of the factor."""
        if resolution % self.factor:
            raise ValueError(f"data.resolution ({resolution}) is not a multiple of {self.factor}")

    def give(self, pixels: Tensor, rng: np.random.Generator, source: Tensor | None) -> Given:  # noqa: ARG002
        """Return small, degraded images."""
        if self.degradation == "blind":
            return Given(degrade(pixels, self.factor, rng))
        return Given(downscale(pixels, self.factor))
