"""Colorization in CIE L*a*b*: lightness is the input, and the generator predicts a* and b*."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from service.runtime.models.parts.tasks import Task
from training.data.color import chroma, gray_level, lightness, to_rgb
from training.games.tasks.task import ImageTask, TaskInputs


class ColorizeOptions(ImageTask):
    """Colorizes gray images and keeps their luminance.

    Inputs have three channels and may be color images; only their luminance is used.
    """

    route: ClassVar[Task] = "colorize"

    kind: Literal["colorize"]

    def check(self, resolution: int, channels: int) -> None:  # noqa: ARG002
        """Raise ValueError for gray data."""
        if channels != 3:
            raise ValueError(f"colorize needs data.channels=3, not {channels}")

    def network_in_channels(self, channels: int) -> int:  # noqa: ARG002
        """Return 1: L*."""
        return 1

    def network_out_channels(self, channels: int) -> int:  # noqa: ARG002
        """Return 2: a* and b*."""
        return 2

    def derive_inputs(
        self,
        pixels: Tensor,
        rng: np.random.Generator,  # noqa: ARG002
        source: Tensor | None,  # noqa: ARG002
    ) -> TaskInputs:
        """Return gray images with the luminance of the targets."""
        gray = gray_level(pixels.float() / 127.5 - 1).to(torch.uint8)
        return TaskInputs(gray.expand(-1, 3, -1, -1).contiguous())

    def network_input(self, image: Tensor, mask: Tensor | None) -> Tensor:  # noqa: ARG002
        """Return L* of the inputs."""
        return lightness(gray_level(image))

    def network_target(self, targets: Tensor) -> Tensor:
        """Return a* and b* of targets."""
        return chroma(targets)

    def to_image(self, output: Tensor, image: Tensor, mask: Tensor | None) -> Tensor:  # noqa: ARG002
        """Combine a* and b* with the luminance of the input."""
        return to_rgb(gray_level(image), output)
