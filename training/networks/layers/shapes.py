"""Shapes of the images that a network takes and returns."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ImageShape:
    """Channels, height and width of one image, in the order of ``[N, C, H, W]``."""

    channels: int
    height: int
    width: int

    @property
    def numel(self) -> int:
        """Number of values in one image."""
        return self.channels * self.height * self.width


@dataclass(frozen=True)
class ImageToImageShape:
    """Shape of an image-to-image network.

    Input ``[N, in_channels, side, side]``, output
    ``[N, out_channels, factor·side, factor·side]``.
    """

    in_channels: int
    out_channels: int
    side: int
    factor: int = 1
