"""From grey to colour, in CIE L*a*b*: the lightness is given, and the two others are made."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from service.runtime.models.manifest import Task
from training.data.color import chroma, gray_level, lightness, to_rgb
from training.games.tasks.task import Given, ImageTask


class ColorizeOptions(ImageTask):
    """Grey pictures to coloured ones of the same luminance.

    What goes in has three channels, so that it may be coloured already: it counts by its luminance.
    """

    route: ClassVar[Task] = "colorize"

    kind: Literal["colorize"]

    def check(self, resolution: int, channels: int) -> None:  # noqa: ARG002 - any size will do
        """Raise ValueError for pictures without colour."""
        if channels != 3:
            raise ValueError(f"colorize needs data.channels=3, not {channels}")

    def seen_channels(self, channels: int) -> int:  # noqa: ARG002 - always
        """One: L*."""
        return 1

    def made_channels(self, channels: int) -> int:  # noqa: ARG002 - always
        """Two: a* and b*."""
        return 2

    def give(self, pixels: Tensor, rng: np.random.Generator, source: Tensor | None) -> Given:  # noqa: ARG002
        """Give the greys of the same luminance."""
        grey = gray_level(pixels.float() / 127.5 - 1).to(torch.uint8)
        return Given(grey.expand(-1, 3, -1, -1).contiguous())

    def see(self, image: Tensor, mask: Tensor | None) -> Tensor:  # noqa: ARG002 - there is none
        """Return L*."""
        return lightness(gray_level(image))

    def answer(self, pictures: Tensor) -> Tensor:
        """Return a* and b*."""
        return chroma(pictures)

    def finish(self, answer: Tensor, image: Tensor, mask: Tensor | None) -> Tensor:  # noqa: ARG002
        """Join the two to the lightness that was given."""
        return to_rgb(gray_level(image), answer)
