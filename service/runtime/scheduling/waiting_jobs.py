"""The jobs that wait for a batch, by priority and batch group, and whose turn it is.

A batch is led by one level of priority and one group of it; `next` chooses both:

- The highest level that waits leads, unless another one is due. A level is due once it has waited
  while `MAX_PASSED` batches were led by other levels. If several are due, the lowest leads first.
- Groups of a level take turns: a group that has led a batch moves to the end.
- Rows of the leading level enter the batch first. Rows of the other levels of the same group fill
  it, the highest level first, because rows in a batch with room cost little.
- Jobs of a level and a group run first in, first out.

So no level starves, however many jobs of others arrive. Between two batches of a level that waits,
others lead at most: 2 batches for HIGH, 5 for NORMAL (its 4, and one of LOW that is due, too), 16
for LOW. If G groups wait at the level, each of them leads one of G such batches.

The measure is batches, not seconds: which batch is next does not depend on the speed of a model,
and the bound is a share of the work that the hardware can do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from service.runtime.scheduling.batches import InferenceJob, Part, Priority, Reason, take_rows

# Batches of other levels after which a waiting level is due.
MAX_PASSED = {Priority.NORMAL: 4, Priority.LOW: 16}

_Queue = deque[InferenceJob]


class Turn(NamedTuple):
    """The level and the group that lead the next batch."""

    level: Priority
    group: Hashable


class WaitingJobs:
    """Jobs with rows that no worker has. Not thread-safe: used under the scheduler's lock."""

    def __init__(self) -> None:
        # The queues by level and group; the group whose turn it is comes first.
        self._levels: dict[Priority, dict[Hashable, _Queue]] = {level: {} for level in Priority}
        # Batches of other levels since a level with waiting jobs has led one.
        self._passed = dict.fromkeys(Priority, 0)

    def __bool__(self) -> bool:
        return any(self._levels.values())

    def __contains__(self, job: InferenceJob) -> bool:
        return job in self._levels[job.priority].get(job.group.key, ())

    @property
    def groups(self) -> int:
        """The number of groups with waiting jobs."""
        levels = [level for level in self._levels.values() if level]
        return len(levels[0]) if len(levels) == 1 else len(set().union(*levels))

    def add(self, job: InferenceJob) -> None:
        """Add a job behind those of its level and group."""
        self._levels[job.priority].setdefault(job.group.key, deque()).append(job)

    def remove(self, job: InferenceJob) -> bool:
        """Remove a job that waits. Returns True if no job of its level and group waits now."""
        level = self._levels[job.priority]
        jobs = level[job.group.key]
        jobs.remove(job)
        if jobs:
            return False
        del level[job.group.key]
        self._forget_empty()
        return True

    def next(self) -> Turn | None:
        """Return what leads the next batch; None if no job waits."""
        waiting = [priority for priority, level in self._levels.items() if level]
        if not waiting:
            return None
        lead = waiting[0]
        for priority in waiting[1:]:
            # From high to low, so that the lowest one that is due leads.
            if self._passed[priority] >= MAX_PASSED[priority]:
                lead = priority
        return Turn(lead, next(iter(self._levels[lead])))

    def jobs(self, turn: Turn) -> Iterator[InferenceJob]:
        """Yield the jobs of the group, in the order in which a batch takes them."""
        return chain.from_iterable(self._queues(turn))

    def take(
        self, turn: Turn, rows: int, reason_not_to_run: Reason
    ) -> tuple[list[Part], list[tuple[InferenceJob, BaseException]]]:
        """Take at most `rows` rows from the jobs of the group, and end its turn.

        Returns the same as `take_rows`.
        """
        parts: list[Part] = []
        dead: list[tuple[InferenceJob, BaseException]] = []
        waited = [priority for priority, level in self._levels.items() if level]
        for queue in self._queues(turn):
            taken, not_run = take_rows(queue, rows, reason_not_to_run)
            parts += taken
            dead += not_run
            rows -= sum(part.rows for part in taken)
        for priority in waited:
            level = self._levels[priority]
            if priority is turn.level:
                # Its turn has ended, even if all of its jobs were late or cancelled.
                queue = level.pop(turn.group)
                if queue:
                    level[turn.group] = queue
            elif not level.get(turn.group, True):
                del level[turn.group]
        if parts:
            for priority in waited:
                self._passed[priority] += 1
            if parts[0].job.priority is turn.level:
                self._passed[turn.level] = 0
        self._forget_empty()
        return parts, dead

    def _queues(self, turn: Turn) -> Sequence[_Queue]:
        """Return the queues of the group: of the leading level, then of the others by priority."""
        order = [turn.level, *(each for each in Priority if each is not turn.level)]
        found = (self._levels[priority].get(turn.group) for priority in order)
        return [queue for queue in found if queue is not None]

    def _forget_empty(self) -> None:
        for priority, level in self._levels.items():
            if not level:
                self._passed[priority] = 0
