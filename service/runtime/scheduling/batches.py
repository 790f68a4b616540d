"""Batches: combine rows of several jobs of one batch group, and run them together.

The scheduler decides which group is next and how many rows a batch has.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Rows = Mapping[str, Array]


class Priority(IntEnum):
    """How urgent a job is. The numbers are those of Triton's parameter `priority`: 1 is the most
    urgent.
    """

    HIGH = 1
    NORMAL = 2
    LOW = 3


class RowCountMismatch(Exception):
    """A run returned a different number of rows than it was given."""


@dataclass(frozen=True)
class BatchGroup:
    """Jobs that can share a batch: one graph of one model, with inputs of one shape.

    Jobs with equal `key` share batches of at most `max_rows` rows, executed by `run`. A batch
    occupies `slots` of the scheduler's slots: more than one if a run keeps several CPUs busy. A
    `run` that raises MemoryError is retried with fewer rows. `run_alone`, if given, replaces `run`
    for a batch that starts while no other batch runs or waits, and may use the whole machine.
    """

    key: Hashable
    run: Callable[[Rows], Rows]
    max_rows: int
    pixels_per_row: int
    label: str = ""
    slots: int = 1
    run_alone: Callable[[Rows], Rows] | None = None


@dataclass
class Times:
    """When a job reached each stage, on the scheduler's clock; None if it has not.

    The engine records the encoding.
    """

    submitted: float | None = None
    started: float | None = None
    ended: float | None = None
    encoding: float | None = None
    encoded: float | None = None


class InferenceJob:
    """Rows to run in a batch group; `future` resolves to the outputs by name, in the order of the
    rows.

    `feeds` are arrays ``[N, ...]`` by input name. `deadline` is a time of the scheduler's clock. A
    job that is `held` keeps its share of the queue limit after it has ended, until
    `Scheduler.release`, because its outputs are still being processed.
    """

    def __init__(
        self,
        group: BatchGroup,
        feeds: Rows,
        deadline: float = math.inf,
        *,
        priority: Priority = Priority.NORMAL,
        held: bool = False,
    ) -> None:
        counts = {len(array) for array in feeds.values()}
        if len(counts) != 1 or 0 in counts:
            raise ValueError(f"inputs need the same number of rows, at least one; got {counts}")
        self.group = group
        self.feeds = feeds
        self.rows: int = counts.pop()
        self.pixels = self.rows * group.pixels_per_row
        self.deadline = deadline
        self.priority = priority
        self.future: Future[dict[str, Array]] = Future()
        self.times = Times()
        # Scheduler state, protected by its lock: rows assigned to workers so far, rows that a
        # worker holds now, returned outputs by first row, and their number.
        self._assigned = 0
        self._in_flight = 0
        self._returned: dict[int, Rows] = {}
        self._returned_rows = 0
        self._cancelled = False
        self._ended = False
        self._held = held
        self._freed = False

    @property
    def started_rows(self) -> int:
        """The number of rows assigned to workers so far, including failed rows."""
        return self._assigned


@dataclass(frozen=True)
class Part:
    """Rows ``[start, stop)`` of a job."""

    job: InferenceJob
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """The number of rows."""
        return self.stop - self.start

    def feeds(self, name: str) -> Array:
        """Return these rows of one input."""
        return self.job.feeds[name][self.start : self.stop]

    def split(self, at: int) -> tuple[Part, Part]:
        """Split the part after `at` rows."""
        middle = self.start + at
        return Part(self.job, self.start, middle), Part(self.job, middle, self.stop)


@dataclass(frozen=True)
class Batch:
    """Parts of jobs of one batch group that run together."""

    group: BatchGroup
    parts: Sequence[Part]
    # Whether nothing else was running or waiting when the batch was formed.
    alone: bool = False

    @property
    def rows(self) -> int:
        """The number of rows."""
        return sum(part.rows for part in self.parts)

    def halves(self) -> tuple[Batch, Batch]:
        """Split the batch in the middle of its rows, inside a part if necessary."""
        left: list[Part] = []
        right = deque(self.parts)
        remaining = self.rows // 2
        while remaining:
            part = right.popleft()
            if part.rows > remaining:
                part, rest = part.split(remaining)
                right.appendleft(rest)
            left.append(part)
            remaining -= part.rows
        return Batch(self.group, left), Batch(self.group, list(right))

    def run(self) -> Rows:
        """Run the rows of all parts together and return the outputs, in the order of the parts.

        Raises RowCountMismatch, and the errors of the group's `run`.
        """
        names = self.parts[0].job.feeds
        feeds = {name: concatenated([part.feeds(name) for part in self.parts]) for name in names}
        group = self.group
        outputs = (group.run_alone if self.alone and group.run_alone else group.run)(feeds)
        for name, array in outputs.items():
            if len(array) != self.rows:
                raise RowCountMismatch(
                    f"the output {name} has {len(array)} rows for a batch of {self.rows}; "
                    "the first axis of every output must be the rows of the inputs"
                )
        return outputs


# Returns why a job may not run, or None if it may.
Reason = Callable[[InferenceJob], BaseException | None]


def take_rows(
    jobs: deque[InferenceJob], rows: int, reason_not_to_run: Reason
) -> tuple[list[Part], list[tuple[InferenceJob, BaseException]]]:
    """Take at most `rows` rows from `jobs`, which are of one group, first in, first out.

    Returns the parts for one batch, and the jobs that may not run, with the reason. Both are
    removed from `jobs`, except a job with remaining rows. The caller holds the scheduler's lock.
    """
    parts: list[Part] = []
    dead: list[tuple[InferenceJob, BaseException]] = []
    while jobs and rows:
        job = jobs[0]
        if (reason := reason_not_to_run(job)) is not None:
            dead.append((jobs.popleft(), reason))
            continue
        part = Part(job, job._assigned, min(job.rows, job._assigned + rows))
        parts.append(part)
        rows -= part.rows
        job._assigned = part.stop
        job._in_flight += part.rows
        if part.stop == job.rows:
            jobs.popleft()
    return parts, dead


def concatenated(arrays: Sequence[Array]) -> Array:
    """Concatenate arrays along the rows, without a copy if there is only one."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
