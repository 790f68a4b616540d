"""What the scheduler handles: lanes, the jobs that wait in them, and batches of their rows."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]
Rows = Mapping[str, Array]


@dataclass(frozen=True)
class BatchGroup:
    """Jobs of equal `key` share batches of at most `max_rows` rows, each run by `run`.

    A batch takes `slots` of the scheduler's: more than one where a run keeps several CPUs busy. A
    `run` that raises MemoryError is tried again with fewer rows. `run_alone`, where there is one,
    does the same for a batch that finds everything idle and leaves nothing waiting: it may take
    what it finds.
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
    """When a job came to each of its stations, on the scheduler's clock; None where it has not.

    The engine, which sees to the encoding, notes that too.
    """

    submitted: float | None = None
    started: float | None = None
    ended: float | None = None
    encoding: float | None = None
    encoded: float | None = None


class InferenceJob:
    """Rows to be run in a lane; `future` ends with the outputs by name, in the order of the rows.

    `feeds` are arrays by input name, their first axis the rows. `deadline` is a time of the
    scheduler's clock. A job that is `held` keeps its place within the bound after its end, until
    `Scheduler.release`: for what is still to be done with its outputs.
    """

    def __init__(
        self, lane: BatchGroup, feeds: Rows, deadline: float = math.inf, *, held: bool = False
    ) -> None:
        counts = {len(array) for array in feeds.values()}
        if len(counts) != 1 or 0 in counts:
            raise ValueError(f"inputs need the same number of rows, at least one; got {counts}")
        self.lane = lane
        self.feeds = feeds
        self.rows: int = counts.pop()
        self.pixels = self.rows * lane.pixels_per_row
        self.deadline = deadline
        self.future: Future[dict[str, Array]] = Future()
        self.times = Times()
        # The scheduler's own notes, kept under its lock: rows given to workers so far, rows that
        # are with one now, and what came back, by first row.
        self._handed_out = 0
        self._out = 0
        self._returned: dict[int, Rows] = {}
        self._cancelled = False
        self._ended = False
        self._held = held
        self._settled = False

    @property
    def begun(self) -> int:
        """Rows given to workers so far, whatever became of them."""
        return self._handed_out


@dataclass(frozen=True)
class Part:
    """Rows `start` to `stop` of a job."""

    job: InferenceJob
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """How many rows."""
        return self.stop - self.start

    def feeds(self, name: str) -> Array:
        """Return the rows of one input."""
        return self.job.feeds[name][self.start : self.stop]

    def split(self, at: int) -> tuple[Part, Part]:
        """Cut the part after `at` rows."""
        middle = self.start + at
        return Part(self.job, self.start, middle), Part(self.job, middle, self.stop)


@dataclass(frozen=True)
class Batch:
    """Parts of jobs of one lane, to be run together."""

    lane: BatchGroup
    parts: Sequence[Part]
    # Whether nothing else ran or waited when it was cut.
    alone: bool = False

    @property
    def rows(self) -> int:
        """How many rows."""
        return sum(part.rows for part in self.parts)

    def halves(self) -> tuple[Batch, Batch]:
        """Cut the batch in the middle of its rows, inside a part where need be."""
        left: list[Part] = []
        right = deque(self.parts)
        missing = self.rows // 2
        while missing:
            part = right.popleft()
            if part.rows > missing:
                part, rest = part.split(missing)
                right.appendleft(rest)
            left.append(part)
            missing -= part.rows
        return Batch(self.lane, left), Batch(self.lane, list(right))
