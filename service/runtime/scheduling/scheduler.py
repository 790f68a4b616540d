"""The scheduler: jobs wait in lanes, leave in batches, and come back row by row.

What always holds:

- Every job ends exactly once: with its rows, with an error, or cancelled.
- The pixels of all jobs that were taken in never pass the bound, from `submit` until the job has
  ended, none of its rows is with a worker, and who held it has let go.
- Inside a lane the first in is the first out; lanes take turns, so that none starves.
- The batches that run never take more than the slots that there are. A lane whose turn it is and
  that does not fit yet is waited for, not passed by.
- Nothing runs after its deadline, and nothing runs that was cancelled before its turn: not the rest
  of a batch that is run in halves either.
- A batch's rows go back to their own jobs, and their count is checked.
- A lane may be given a moment for as many rows to come as its last batch had, never longer than
  `linger_s` after its first job came, and only while no other lane waits.
- A row that makes a batch fail fails alone: the batch is halved until the culprit is found. The
  same halving goes on where a batch was too large for the memory, and the lane then keeps to the
  smaller size for a while.

A lane is whatever may share a batch: one graph of one model. Time comes from a clock that is
handed in, and work from `BatchGroup.run`, so all of this can be tested without a model.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from typing import Protocol

import numpy as np

from service.runtime.scheduling.batches import Array, Batch, BatchGroup, InferenceJob, Part, Rows

log = logging.getLogger("ganymede.scheduler")

Clock = Callable[[], float]

# For so long a lane keeps to the batches that the memory held. What took the rest may be gone then.
SMALLER_BATCHES_S = 60.0
# Lanes whose last batch is remembered: pictures of every size have one of their own.
_MOST_LANES = 1000


class QueueFull(Exception):
    """The bound would be passed. `retry_after` is when there is room again, in seconds."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"the queue is full; there is room in about {retry_after:.1f} s")
        self.retry_after = retry_after


class JobTooLarge(Exception):
    """The job alone is larger than the bound, so it would never fit."""


class Draining(Exception):
    """No job is taken in any more."""


class DeadlineExceeded(Exception):
    """The job's time ran out before all of it had been run."""


class RowCountMismatch(Exception):
    """A run returned another number of rows than it was given."""


class Observer(Protocol):
    """Is told what happens, outside the lock. What it raises is logged, and harms no job."""

    def waited(self, lane: BatchGroup, seconds: float) -> None:
        """The first rows of a job begin to run, so long after it was submitted."""

    def ran(self, lane: BatchGroup, rows: int, seconds: float) -> None:
        """A batch was run."""

    def made(self, batch: Batch, outputs: Rows) -> None:
        """That is what a batch gave, and not to be changed: it is the jobs' own."""

    def encoded(self, lane: BatchGroup, seconds: float) -> None:
        """What follows on a job's run was done, or failed."""

    def queued(self, pixels: int) -> None:
        """So many pixels are within the bound."""


class Scheduler:
    """Lanes of jobs on one side, workers that take batches on the other. All methods may be called
    from any thread.
    """

    def __init__(
        self,
        clock: Clock,
        bound: int,
        observer: Observer | None = None,
        slots: float = math.inf,
        linger_s: float = 0.0,
    ) -> None:
        """Take in at most `bound` pixels at a time, and run batches of at most `slots` slots.

        Who learns only later how many there are sets them before the first batch is taken, and
        likewise `linger_s`.
        """
        self._clock = clock
        self._bound = bound
        self.slots = slots
        self.linger_s = linger_s
        self._observer = observer
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        # A lane is in here while it has jobs; the one whose turn it is comes first.
        self._lanes: dict[Hashable, deque[InferenceJob]] = {}
        self._pixels = 0
        self._running = 0
        self._slots_taken = 0.0
        # What runs now: since when, and the label of its lane, by the thread that runs it.
        self._runs: dict[int, tuple[float, str]] = {}
        # Lanes whose batches were too large for the memory: the rows that they keep to, until when.
        self._smaller: dict[Hashable, tuple[int, float]] = {}
        # The rows of the last batch of a lane, and the seconds that it took.
        self._last: dict[Hashable, tuple[int, float]] = {}
        self._draining = False
        self._drained: Future[None] = Future()
        # What the last batches made and took, older ones counting less.
        self._pixels_made = 0.0
        self._seconds_taken = 0.0

    @property
    def pixels(self) -> int:
        """Pixels within the bound."""
        return self._pixels

    def longest_run(self) -> tuple[float, str]:
        """Return for how many seconds the oldest of the present runs has run, and its lane's label.

        No run is (0, "").
        """
        with self._lock:
            now = self._clock()
            began, label = min(self._runs.values(), default=(now, ""))
            return now - began, label

    def submit(self, job: InferenceJob) -> None:
        """Take in a job. Raises QueueFull, JobTooLarge or Draining, and then has not taken it."""
        with self._lock:
            if self._draining:
                raise Draining
            if job.pixels > self._bound:
                raise JobTooLarge(f"{job.pixels:,} pixels, and the queue holds {self._bound:,}")
            over = self._pixels + job.pixels - self._bound
            if over > 0:
                raise QueueFull(self._seconds_for(over))
            self._pixels += job.pixels
            job.times.submitted = self._clock()
            self._lanes.setdefault(job.lane.key, deque()).append(job)
            self._work.notify()
        self._observe_queue()

    def cancel(self, job: InferenceJob) -> None:
        """Drop what has not been given to a worker; the job then ends as cancelled.

        A job that nobody has begun gives its place back at once.
        """
        with self._lock:
            job._cancelled = True
            waiting = job._handed_out < job.rows
        if waiting:
            self._end(job, CancelledError())

    def release(self, job: InferenceJob) -> None:
        """Let go of a held job: its place is free as soon as its work has ended."""
        with self._lock:
            job._held = False
        self._settle(job)

    def take(self, timeout: float | None = None) -> Batch | None:
        """Return the next batch, waiting for one; None after `timeout` or when drained."""
        while True:
            ended: list[tuple[InferenceJob, BaseException]] = []
            with self._lock:
                # Read once: a moment that ended between two looks would be waited for without end.
                now = self._clock()
                batch = self._next_batch(now, ended)
                if batch is not None:
                    self._running += 1
                    self._slots_taken += self._slots_of(batch.lane)
                if batch is None and not ended:
                    if self._drained.done():
                        return None
                    moment = self._moment(now)
                    patience = min((t for t in (timeout, moment) if t is not None), default=None)
                    if not self._work.wait(patience) and patience == timeout:
                        return None
            # Outside the lock, since a future's callbacks may do anything.
            for job, error in ended:
                self._end(job, error)
            if batch is not None:
                return batch

    def execute(self, batch: Batch) -> None:
        """Run a batch that `take` gave, and hand its rows back. Errors belong to the jobs."""
        self._note_start(batch)
        try:
            self._run_if_wanted(batch)
        finally:
            with self._lock:
                self._running -= 1
                self._slots_taken -= self._slots_of(batch.lane)
                # The lane whose turn it is may have waited for these slots.
                self._work.notify_all()

    def _run_if_wanted(self, batch: Batch) -> None:
        """Give back the parts whose jobs have died since they were taken; run the others."""
        wanted = []
        for part in batch.parts:
            job = part.job
            if not job._ended and (dead := self._dead(job)) is not None:
                self._end(job, dead)
            if job._ended:
                self._give_back(part, None)
            else:
                wanted.append(part)
        if wanted:
            self._run_or_halve(Batch(batch.lane, wanted, batch.alone))

    def _run_or_halve(self, batch: Batch) -> None:
        started = self._clock()
        thread = threading.get_ident()
        with self._lock:
            self._runs[thread] = (started, batch.lane.label)
        try:
            outputs = _run(batch)
        # Whatever a run raises is its jobs' error, also what is no Exception: a worker that ended
        # of it would leave a service that looks ready and serves nothing.
        except BaseException as error:  # noqa: BLE001
            if batch.rows == 1:
                self._give_back(batch.parts[0], error)
                return
            if isinstance(error, MemoryError):
                self._keep_smaller(batch)
            for half in batch.halves():
                self._run_if_wanted(half)
            return
        finally:
            with self._lock:
                self._runs.pop(thread, None)
        seconds = self._clock() - started
        self._note_speed(batch, seconds)
        self.tell(lambda observer: observer.ran(batch.lane, batch.rows, seconds))
        row = 0
        for part in batch.parts:
            rows = {name: array[row : row + part.rows] for name, array in outputs.items()}
            row += part.rows
            self._give_back(part, rows)
        # Last, since nobody should wait for it.
        self.tell(lambda observer: observer.made(batch, outputs))

    def _note_start(self, batch: Batch) -> None:
        now = self._clock()
        for part in batch.parts:
            times = part.job.times
            # The other parts of the job may begin beside this one or before it, on other workers.
            if part.start == 0:
                times.started = now
                if times.submitted is not None:
                    self._tell_wait(batch.lane, now - times.submitted)

    def _keep_smaller(self, batch: Batch) -> None:
        """Note that the memory does not hold batches of that size."""
        with self._lock:
            now = self._clock()
            self._smaller = {key: kept for key, kept in self._smaller.items() if kept[1] > now}
            rows = min(batch.rows // 2, self._most_rows(batch.lane))
            self._smaller[batch.lane.key] = (rows, now + SMALLER_BATCHES_S)
        log.warning(
            "%s: %d rows were too many for the memory; at most %d for %.0f s",
            batch.lane.label or batch.lane.key,
            batch.rows,
            rows,
            SMALLER_BATCHES_S,
        )

    def _most_rows(self, lane: BatchGroup) -> int:
        rows, until = self._smaller.get(lane.key, (lane.max_rows, math.inf))
        return min(rows, lane.max_rows) if self._clock() < until else lane.max_rows

    def _slots_of(self, lane: BatchGroup) -> float:
        """How many slots a batch takes: a lane that wants more than there are gets them all."""
        return min(lane.slots, self.slots)

    def tell(self, what: Callable[[Observer], None]) -> None:
        """Tell the observer, if there is one, whose failures harm no job."""
        if self._observer:
            try:
                what(self._observer)
            except Exception:
                log.exception("the observer failed")

    def drain(self) -> Future[None]:
        """Take in nothing more; the future ends when the last job has."""
        with self._lock:
            self._draining = True
        self._look_whether_drained()
        return self._drained

    def _next_batch(
        self, now: float, ended: list[tuple[InferenceJob, BaseException]]
    ) -> Batch | None:
        """Cut a batch from the lane whose turn it is; jobs found dead on the way go to `ended`."""
        while self._lanes:
            key, jobs = next(iter(self._lanes.items()))
            lane = jobs[0].lane
            if self._slots_taken + self._slots_of(lane) > self.slots or self._moment(now):
                return None
            parts: list[Part] = []
            room = self._share(jobs, self._most_rows(lane))
            while jobs and room:
                job = jobs[0]
                if (dead := self._dead(job)) is not None:
                    ended.append((jobs.popleft(), dead))
                    continue
                stop = min(job.rows, job._handed_out + room)
                part = Part(job, job._handed_out, stop)
                parts.append(part)
                room -= part.rows
                job._handed_out = stop
                job._out += part.rows
                if stop == job.rows:
                    jobs.popleft()
            # The next lane's turn; this one comes again when it still has jobs.
            del self._lanes[key]
            if jobs:
                self._lanes[key] = jobs
            if self._lanes:
                # Who was told of it may have been this worker, or one that gives its lane a moment.
                self._work.notify()
            if parts:
                return Batch(lane, parts, alone=not (self._running or self._lanes))
        return None

    def _moment(self, now: float) -> float | None:
        """Return for how long the lane that waits is given time for more rows; None for no time.

        Clients that wait for their answers ask again together, when a batch has come back, and not
        at one instant: who took the first of them at once would run it alone, which costs more a
        row. So a lane waits for what its last batch had, but no more than half of what that took.
        """
        if not self.linger_s or self._draining or len(self._lanes) != 1:
            return None
        ((key, jobs),) = self._lanes.items()
        rows, seconds = self._last.get(key, (0, 0.0))
        waiting = sum(job.rows - job._handed_out for job in jobs)
        if waiting >= rows or jobs[0].times.submitted is None:
            return None
        until = jobs[0].times.submitted + min(self.linger_s, seconds / 2)
        return until - now if until > now else None

    def _share(self, jobs: Sequence[InferenceJob], most: int) -> int:
        """Return how many rows of a lane the next batch takes, `most` at most.

        Where several batches could begin now, the rows are shared out among them: one batch of all
        the rows would take longer than two of half of them side by side.
        """
        slots = self._slots_of(jobs[0].lane)
        if self.slots == math.inf:
            return most
        batches = int((self.slots - self._slots_taken) // slots) // len(self._lanes)
        if batches < 2:
            return most
        waiting = 0
        for job in jobs:
            waiting += job.rows - job._handed_out
            if waiting >= batches * most:
                return most
        return math.ceil(waiting / batches)

    def _dead(self, job: InferenceJob) -> BaseException | None:
        """Return why a job may not run, else None: at the head of its lane, or begun already.

        From its first look here on, nobody but the scheduler can end the job's future.
        """
        if job._handed_out == 0 and not job.future.set_running_or_notify_cancel():
            return CancelledError()
        if job._cancelled:
            return CancelledError()
        if self._clock() >= job.deadline:
            return DeadlineExceeded("the deadline passed before all of the job had run")
        return None

    def _give_back(self, part: Part, outcome: Rows | BaseException | None) -> None:
        """Take rows back from a worker: run, failed, or (None) not run because the job is dead."""
        job = part.job
        complete = False
        with self._lock:
            job._out -= part.rows
            if isinstance(outcome, Mapping):
                job._returned[part.start] = outcome
                returned = sum(len(next(iter(rows.values()))) for rows in job._returned.values())
                complete = returned == job.rows
        if isinstance(outcome, BaseException):
            self._end(job, outcome)
        elif complete:
            self._end(job, None)
        self._settle(job)

    def _end(self, job: InferenceJob, error: BaseException | None) -> None:
        """End the job's future, once: with its rows, or with `error`."""
        with self._lock:
            if job._ended:
                return
            job._ended = True
            job.times.ended = self._clock()
            waiting = self._lanes.get(job.lane.key)
            if waiting and job in waiting:
                waiting.remove(job)
                if not waiting:
                    del self._lanes[job.lane.key]
                    # It may have been the one that was waited for.
                    self._work.notify_all()
        if error is None:
            try:
                parts = [job._returned[start] for start in sorted(job._returned)]
                joined = {name: _joined([part[name] for part in parts]) for name in parts[0]}
            except Exception as mismatch:  # noqa: BLE001 - parts that do not fit are an error too
                job.future.set_exception(mismatch)
            else:
                job.future.set_result(joined)
        elif job.future.running():
            job.future.set_exception(error)
        else:
            job.future.cancel()
        self._settle(job)

    def _settle(self, job: InferenceJob) -> None:
        """Give the job's pixels back when nothing of it is left."""
        with self._lock:
            if job._settled or not job._ended or job._out or job._held:
                return
            job._settled = True
            self._pixels -= job.pixels
        self._observe_queue()
        self._look_whether_drained()

    def _look_whether_drained(self) -> None:
        with self._lock:
            if not (self._draining and self._pixels == 0) or self._drained.done():
                return
            self._drained.set_result(None)
            self._work.notify_all()

    def _tell_wait(self, lane: BatchGroup, seconds: float) -> None:
        self.tell(lambda observer: observer.waited(lane, seconds))

    def _observe_queue(self) -> None:
        self.tell(lambda observer: observer.queued(self._pixels))

    def _note_speed(self, batch: Batch, seconds: float) -> None:
        pixels = batch.rows * batch.lane.pixels_per_row
        with self._lock:
            self._last.pop(batch.lane.key, None)
            self._last[batch.lane.key] = (batch.rows, seconds)
            if len(self._last) > _MOST_LANES:
                del self._last[next(iter(self._last))]
            # As many batches as run now come back in the same time.
            seconds = max(seconds, 1e-6) / self._running
            # Two sums, not a mean of speeds, in which a short batch of few pixels would weigh as
            # much as a long one of many.
            self._pixels_made = 0.9 * self._pixels_made + pixels
            self._seconds_taken = 0.9 * self._seconds_taken + seconds

    def _seconds_for(self, pixels: int) -> float:
        """How long `pixels` take at the speed of the last batches; one second when unknown."""
        return pixels * self._seconds_taken / self._pixels_made if self._pixels_made else 1.0


def _run(batch: Batch) -> Rows:
    names = batch.parts[0].job.feeds
    feeds = {name: _joined([part.feeds(name) for part in batch.parts]) for name in names}
    run = batch.lane.run_alone if batch.alone and batch.lane.run_alone else batch.lane.run
    outputs = run(feeds)
    for name, array in outputs.items():
        if len(array) != batch.rows:
            raise RowCountMismatch(
                f"{name} came back with {len(array)} rows for {batch.rows}; "
                "the graph's outputs need the rows of its inputs as their first axis"
            )
    return outputs


def _joined(arrays: Sequence[Array]) -> Array:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
