"""Bounds on the pixels that are held at a time, such as those of the queue."""

from __future__ import annotations

from typing import Protocol


class PixelBound(Protocol):
    """At most `limit` pixels are reserved at a time."""

    limit: int

    def reserve(self, pixels: int) -> int:
        """Reserve `pixels` and return 0; if they exceed the limit, return by how many pixels."""

    def free(self, pixels: int) -> None:
        """Return reserved pixels."""

    def holders(self) -> int:
        """Return how many processes hold reserved pixels, at least 1."""


class LocalPixelBound:
    """The bound of one process. Not thread-safe."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._pixels = 0

    def reserve(self, pixels: int) -> int:
        """Reserve `pixels` and return 0; if they exceed the limit, return by how many pixels."""
        if (excess := self._pixels + pixels - self.limit) > 0:
            return excess
        self._pixels += pixels
        return 0

    def free(self, pixels: int) -> None:
        """Return reserved pixels."""
        self._pixels -= pixels

    def holders(self) -> int:
        """Return 1."""
        return 1
