"""Upscaling (super-resolution)."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from torch import Tensor

from service.runtime.models.parts.tasks import Task
from training.data.degradations import degrade, downscale
from training.games.tasks.task import ImageTask, TaskInputs


class UpscaleOptions(ImageTask):
    """Enlarges images by `factor` in height and width."""

    route: ClassVar[Task] = "upscale"

    kind: Literal["upscale"]
    factor: Literal[2, 4] = 4
    # How inputs are derived: bicubic downscaling, or also blur, noise and JPEG (blind).
    degradation: Literal["bicubic", "blind"] = "bicubic"

    @property
    def scale(self) -> int:
        """The upscaling factor."""
        return self.factor

    def check(self, resolution: int, channels: int) -> None:  # noqa: ARG002
        """Raise ValueError unless the side is a multiple of the factor."""
        if resolution % self.factor:
            raise ValueError(f"data.resolution ({resolution}) is not a multiple of {self.factor}")

    def derive_inputs(
        self,
        pixels: Tensor,
        rng: np.random.Generator,
        source: Tensor | None,  # noqa: ARG002
    ) -> TaskInputs:
        """Return the targets, downscaled and, depending on the options, degraded."""
        if self.degradation == "blind":
            return TaskInputs(degrade(pixels, self.factor, rng))
        return TaskInputs(downscale(pixels, self.factor))
