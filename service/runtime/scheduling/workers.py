"""The worker threads that execute batches."""

from __future__ import annotations

import logging
import threading

from service.runtime.scheduling.scheduler import Scheduler

log = logging.getLogger("ganymede.workers")


class Workers:
    """Threads that execute a scheduler's batches until it is drained."""

    def __init__(self, scheduler: Scheduler, count: int) -> None:
        self._scheduler = scheduler
        self._threads = [
            threading.Thread(target=self._work, name=f"ganymede-worker-{i}", daemon=True)
            for i in range(count)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def join(self, timeout: float | None = None) -> None:
        """Wait until the threads have ended, which they do once the scheduler is drained."""
        for thread in self._threads:
            thread.join(timeout)

    def _work(self) -> None:
        while (batch := self._scheduler.take()) is not None:
            try:
                self._scheduler.execute(batch)
            except BaseException:
                # Without its worker thread, the service would look ready but not respond.
                log.exception(
                    "the results of a batch of %s could not be returned", batch.group.label
                )
            # Otherwise the last batch, and with it its model, would stay alive until the next one.
            del batch
