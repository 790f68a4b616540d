"""Colorization in CIE L*a*b*: lightness is the input, and the generator predicts a* and b*."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from service.runtime.models.manifest import Task
from training.data.color import chroma, gray_level, lightness, to_rgb
from training.games.tasks.task import Given, ImageTask


class ColorizeOptions(ImageTask):
    """Gray images to color images of the same luminance.

    Inputs have three channels, so that they may be color images: only their luminance counts.
    """

    route: ClassVar[Task] = "colorize"

    kind: Literal["colorize"]

    def check(self, resolution: int, channels: int) -> None:  # noqa: ARG002 - any resolution
        """Raise ValueError for gray images."""
        if channels != 3:
            raise ValueError(f"colorize needs data.channels=3, not {channels}")

    def seen_channels(self, channels: int) -> int:  # noqa: ARG002
        """One: L*."""
        return 1

    def made_channels(self, channels: int) -> int:  # noqa: ARG002
        """Two: a* and b*."""
        return 2

    def give(self, pixels: Tensor, rng: np.random.Generator, source: Tensor | None) -> Given:  # noqa: ARG002
        """Return gray images of the same luminance."""
        gray = gray_level(pixels.float() / 127.5 - 1).to(torch.uint8)
        return Given(gray.expand(-1, 3, -1, -1).contiguous())

    def see(self, image: Tensor, mask: Tensor | None) -> Tensor:  # noqa: ARG002
        """Return L* of the inputs."""
        return lightness(gray_level(image))

    def answer(self, targets: Tensor) -> Tensor:
        """Return a* and b* of targets."""
        return chroma(targets)

    def finish(self, answer: Tensor, image: Tensor, mask: Tensor | None) -> Tensor:  # noqa: ARG002
        """Return the color images of a* and b* with the input's luminance."""
        return to_rgb(gray_level(image), answer)
