"""Bounds on the pixels that are held at a time, such as those of the queue."""

from __future__ import annotations

from typing import Protocol


class PixelBound(Protocol):
    """At most `limit` pixels are reserved at a time.

    Those of low priority (`low`) are at most half of them, unless they were reserved at once.
    """

    limit: int

    def reserve(self, pixels: int, *, low: bool = False) -> int:
        """Reserve `pixels` and return 0; if they exceed the bound, return by how many pixels."""

    def free(self, pixels: int, *, low: bool = False) -> None:
        """Return pixels that were reserved with the same `low`."""

    def holders(self) -> int:
        """Return how many processes hold reserved pixels, at least 1."""


class LocalPixelBound:
    """The bound of one process. Not thread-safe."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._pixels = self._low_pixels = 0

    def reserve(self, pixels: int, *, low: bool = False) -> int:
        """Reserve `pixels` and return 0; if they exceed the bound, return by how many pixels."""
        excess = self._pixels + pixels - self.limit
        if low:
            excess = max(excess, excess_of_low(self._low_pixels, pixels, self.limit))
        if excess > 0:
            return excess
        self._pixels += pixels
        self._low_pixels += pixels if low else 0
        return 0

    def free(self, pixels: int, *, low: bool = False) -> None:
        """Return pixels that were reserved with the same `low`."""
        self._pixels -= pixels
        self._low_pixels -= pixels if low else 0

    def holders(self) -> int:
        """Return 1."""
        return 1


def excess_of_low(held: int, pixels: int, limit: int) -> int:
    """Return by how many pixels further `pixels` of low priority exceed their half of `limit`.

    Not positive if they fit. `held` are the pixels of low priority that are reserved; without any,
    all fit, so that large ones are not refused for ever.
    """
    return held + pixels - limit // 2 if held else 0
