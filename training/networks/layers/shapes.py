"""The shape of the pictures that a network makes or judges."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ImageShape:
    """Channels, height and width of one picture, in the order of ``[N, C, H, W]``."""

    channels: int
    height: int
    width: int

    @property
    def numel(self) -> int:
        """Count of values in one picture."""
        return self.channels * self.height * self.width


@dataclass(frozen=True)
class ImageToImageShape:
    """What goes through a network from pictures to pictures.

    `given` channels of `side` pixels go in, `made` channels of `factor` times that side come out.
    """

    in_channels: int
    out_channels: int
    side: int
    factor: int = 1
