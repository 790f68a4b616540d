"""Ends workers whose event loop does not turn any more, so that the supervisor replaces them."""

from __future__ import annotations

import logging
import math
import os
import signal

from service.processes.worker_table import WorkerTable

log = logging.getLogger("ganymede.processes")


class HungWorkers:
    """Watches the event loops of the workers in `table`, from a thread of one of them.

    It counts checks instead of seconds, so that time in which the whole machine is suspended does
    not count.
    """

    def __init__(self, table: WorkerTable, checks: int) -> None:
        """A worker hangs if its event loop has not turned for `checks` checks."""
        self._table = table
        self._checks = checks
        # By process id: the last turn, and the checks for which it has been the last.
        self._seen: dict[int, tuple[float, int]] = {}

    def check(self) -> None:
        """Kill the worker that has hung for longest, which may be this one.

        Only one at a time: the others may wait for a lock that it holds.
        """
        seen: dict[int, tuple[float, int]] = {}
        hung: list[tuple[float, int]] = []
        for row in self._table.living():
            pid, beat = int(row["pid"]), float(row["beat"])
            before, count = self._seen.get(pid, (math.nan, 0))
            count = count + 1 if before == beat else 0
            # A worker that is starting has no event loop yet.
            if beat and count >= self._checks:
                hung.append((beat, pid))
            seen[pid] = (beat, count)
        self._seen = seen
        if hung:
            _, pid = min(hung)
            log.critical("the event loop of process %d hangs: it is replaced", pid)
            os.kill(pid, signal.SIGKILL)
