"""From small pictures to larger ones."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from torch import Tensor

from service.runtime.models.manifest import Task
from training.data.degradations import degrade, downscale
from training.games.tasks.task import Given, ImageTask


class UpscaleOptions(ImageTask):
    """Pictures to those `factor` times as large a side."""

    route: ClassVar[Task] = "upscale"

    kind: Literal["upscale"]
    factor: Literal[2, 4] = 4
    # How pictures became small: only that, or as photographs become poor.
    degradation: Literal["bicubic", "blind"] = "bicubic"

    @property
    def scale(self) -> int:
        """The factor."""
        return self.factor

    def check(self, resolution: int, channels: int) -> None:  # noqa: ARG002 - any channels will do
        """Raise ValueError where the side cannot be divided."""
        if resolution % self.factor:
            raise ValueError(f"data.resolution ({resolution}) is no multiple of {self.factor}")

    def give(self, pixels: Tensor, rng: np.random.Generator, source: Tensor | None) -> Given:  # noqa: ARG002
        """Make the pictures small."""
        if self.degradation == "blind":
            return Given(degrade(pixels, self.factor, rng))
        return Given(downscale(pixels, self.factor))
