"""Bounds on pixels that the processes of one server hold together."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Literal

from service.processes.worker_table import WorkerTable
from service.runtime.scheduling.pixel_bounds import excess_of_low


class SharedPixels:
    """At most `limit` pixels in one field of the table, over all living workers. Thread-safe.

    Those of low priority are also counted in the field `low_pixels`: only one bound has them.
    Implements `service.runtime.scheduling.pixel_bounds.PixelBound`. The pixels of a worker that
    died do not count.
    """

    def __init__(
        self, table: WorkerTable, field: Literal["queue_pixels", "upload_pixels"], limit: int
    ) -> None:
        """Bound the pixels in `field`. This process must have joined the table."""
        self.limit = limit
        self._table = table
        self._pixels = table.column(field)
        self._low_pixels = table.column("low_pixels")
        self._index = table.index
        # This process is the only one that writes its row.
        self._own = self._own_low = 0
        self._writing = threading.Lock()

    def reserve(self, pixels: int, *, low: bool = False) -> int:
        """Reserve `pixels` and return 0; if they exceed the bound, return by how many pixels."""
        with self._table.locked():
            excess = self._excess(pixels, range(len(self._pixels)), low)
            if excess > 0:
                # Liveness takes a system call for each worker: only looked at if it matters.
                excess = self._excess(pixels, self._table.living_indices(), low)
            if excess > 0:
                return excess
            self._add(pixels, low)
        return 0

    def _excess(self, pixels: int, workers: Iterable[int], low: bool) -> int:
        """Return by how many pixels `pixels` exceed the bound with those of `workers`."""
        held: list[int] = self._pixels.tolist()
        excess = sum(held[i] for i in workers) + pixels - self.limit
        if not low:
            return excess
        held = self._low_pixels.tolist()
        return max(excess, excess_of_low(sum(held[i] for i in workers), pixels, self.limit))

    def free(self, pixels: int, *, low: bool = False) -> None:
        """Return pixels that were reserved with the same `low`."""
        # Without a lock of the table: a process that reads the larger value refuses a request at
        # most, as if it had come before.
        self._add(-pixels, low)

    def holders(self) -> int:
        """Return how many living workers hold reserved pixels, at least 1."""
        held: list[int] = self._pixels.tolist()
        return max(sum(held[i] > 0 for i in self._table.living_indices()), 1)

    def _add(self, pixels: int, low: bool) -> None:
        with self._writing:
            self._own += pixels
            self._pixels[self._index] = self._own
            if low:
                self._own_low += pixels
                self._low_pixels[self._index] = self._own_low
