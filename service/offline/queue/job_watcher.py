"""Follows jobs for the event streams of one process, with one look at the table for all of them.

Any process of a server may run a job, and any may be asked about it: what they share is the table,
so a watcher reads it at an interval, for as long as somebody watches.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from service.offline.queue.table import JobTable, JobVersion, QueuedJob

log = logging.getLogger("ganymede.jobs")

# Seconds between two looks at the table.
_POLL_S = 0.5


@dataclass(eq=False)
class JobWatch:
    """What one stream knows of its job."""

    job_id: str
    owner: str | None
    # The newest state; None before the first look, and once the job is deleted.
    job: QueuedJob | None = None
    version: JobVersion | None = None
    is_deleted: bool = False
    # Whether the stream has to end before the job does.
    is_closing: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class JobWatcher:
    """The watches of one process. Used in one event loop."""

    def __init__(
        self, table: JobTable, is_closing: Callable[[], bool], interval_s: float = _POLL_S
    ) -> None:
        """Read `table`. All watches end once `is_closing` returns true."""
        self._table = table
        self._is_closing = is_closing
        self._interval_s = interval_s
        self._watches: set[JobWatch] = set()
        self._task: asyncio.Task[None] | None = None
        # A new watch does not wait for the interval to end.
        self._opened = asyncio.Event()

    def count(self, owner: str | None = None) -> int:
        """Return the number of watches of `owner`; of all owners if it is None."""
        if owner is None:
            return len(self._watches)
        return sum(watch.owner == owner for watch in self._watches)

    @contextmanager
    def watch(self, job_id: str, owner: str | None) -> Iterator[JobWatch]:
        """Watch a job within the block: `changed` is set whenever there is something new."""
        watch = JobWatch(job_id, owner)
        self._watches.add(watch)
        self._opened.set()
        try:
            if self._task is None:
                self._task = asyncio.get_running_loop().create_task(self._follow())
            yield watch
        finally:
            self._watches.discard(watch)
            if not self._watches and self._task is not None:
                self._task.cancel()
                self._task = None

    async def _follow(self) -> None:
        logged: str | None = None
        while True:
            self._opened.clear()
            try:
                await self._look(list(self._watches))
                logged = None
            except (sqlite3.Error, OSError) as error:
                # The streams stay open: the table may be locked for a moment.
                if logged != str(error):
                    log.warning("the table of jobs cannot be read: %s", error)
                logged = str(error)
            except Exception:
                log.exception("jobs cannot be followed")
            if self._is_closing():
                for watch in self._watches:
                    watch.is_closing = True
                    watch.changed.set()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._opened.wait(), self._interval_s)

    async def _look(self, watches: list[JobWatch]) -> None:
        ids = {watch.job_id for watch in watches}
        versions = await asyncio.to_thread(self._table.versions, list(ids))
        stale = {
            watch.job_id
            for watch in watches
            if watch.job_id in versions and watch.version != versions[watch.job_id]
        }
        jobs = await asyncio.to_thread(self._table.find, list(stale)) if stale else {}
        for watch in watches:
            job = jobs.get(watch.job_id)
            if watch.job_id not in versions:
                watch.job, watch.is_deleted = None, True
            elif job is not None and job.version != watch.version:
                watch.job, watch.version = job, job.version
            else:
                continue
            watch.changed.set()
