"""Bounds on pixels that the processes of one server hold together."""

from __future__ import annotations

import threading
from typing import Literal

from service.processes.worker_table import WorkerTable


class SharedPixels:
    """At most `limit` pixels in one field of the table, over all living workers. Thread-safe.

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
        self._index = table.index
        # This process is the only one that writes its row.
        self._own = 0
        self._writing = threading.Lock()

    def reserve(self, pixels: int) -> int:
        """Reserve `pixels` and return 0; if they exceed the limit, return by how many pixels."""
        with self._table.locked():
            held: list[int] = self._pixels.tolist()
            excess = sum(held) + pixels - self.limit
            if excess > 0:
                # Liveness takes a system call for each worker: only looked at if it matters.
                living = self._table.living_indices()
                excess = sum(held[i] for i in living) + pixels - self.limit
            if excess > 0:
                return excess
            self._add(pixels)
        return 0

    def free(self, pixels: int) -> None:
        """Return reserved pixels."""
        # Without a lock of the table: a process that reads the larger value refuses a request at
        # most, as if it had come before.
        self._add(-pixels)

    def holders(self) -> int:
        """Return how many living workers hold reserved pixels, at least 1."""
        held: list[int] = self._pixels.tolist()
        return max(sum(held[i] > 0 for i in self._table.living_indices()), 1)

    def _add(self, pixels: int) -> None:
        with self._writing:
            self._own += pixels
            self._pixels[self._index] = self._own
