"""Who is told what the scheduler does, such as the metrics."""

from __future__ import annotations

from typing import Protocol

from service.runtime.scheduling.batches import Batch, BatchGroup, Priority, Rows


class Observer(Protocol):
    """Receives events outside the lock. Its errors are logged and do not affect jobs."""

    def waited(self, group: BatchGroup, seconds: float, priority: Priority) -> None:
        """The first rows of a job start to run, `seconds` after it was submitted."""

    def ran(self, group: BatchGroup, rows: int, seconds: float) -> None:
        """A batch has run."""

    def produced(self, batch: Batch, outputs: Rows) -> None:
        """A batch returned `outputs`, which belong to the jobs and must not be modified."""

    def encoded(self, group: BatchGroup, seconds: float) -> None:
        """The outputs of a job were encoded, or encoding failed."""

    def queued(self, pixels: int) -> None:
        """The queue now holds this many pixels."""
