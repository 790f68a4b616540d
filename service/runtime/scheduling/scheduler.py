"""The scheduler: jobs wait in batch groups, run in batches, and get their results row by row.

Invariants:

- Every job ends exactly once: with its outputs, with an error, or cancelled.
- The pixels of all accepted jobs never exceed the limit, together with those of other processes
  that share it. They count from `submit` until the job has ended, no worker holds any of its rows,
  and it has been released.
- Jobs of a group and a priority run first in, first out. Groups of a priority take turns, so that
  none starves. Higher priorities lead most batches, and lower ones never fewer than a fixed share:
  see `waiting_jobs`.
- Jobs of low priority, of all processes that share the limit, never hold more than half of it,
  unless only one of them is there. So they leave room in the queue for others.
- Running batches never occupy more slots than exist. If the next batch of the group whose turn it
  is does not fit yet, the scheduler waits for slots instead of passing the group over. A job of a
  higher priority that arrives meanwhile has its turn first.
- No row starts to run after its deadline, or after its job was cancelled. This includes the rest of
  a batch that is run in halves.
- Each job gets the outputs of its own rows. The number of output rows is checked.
- A group may wait until it has as many rows as its last batch had, for at most `linger_s` after its
  first job arrived, and only while no other group has jobs.
- If a row makes a batch fail, only the job of this row fails: the batch is halved until the row is
  isolated. A batch that runs out of memory is also halved, and the batches of its group are limited
  to the smaller size for some time.

The jobs of a batch group can share a batch: they use the same graph of the same model. The clock is
injected and `BatchGroup.run` does the work, so the scheduler can be tested without a model.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Future

from service.runtime.scheduling.batch_history import SMALLER_BATCHES_S, BatchHistory, Speed
from service.runtime.scheduling.batches import (
    Batch,
    BatchGroup,
    InferenceJob,
    Part,
    Priority,
    Rows,
    concatenated,
)
from service.runtime.scheduling.errors import DeadlineExceeded, Draining, JobTooLarge, QueueFull
from service.runtime.scheduling.observer import Observer
from service.runtime.scheduling.pixel_bounds import LocalPixelBound, PixelBound
from service.runtime.scheduling.waiting_jobs import Turn, WaitingJobs

log = logging.getLogger("ganymede.scheduler")

Clock = Callable[[], float]


class Scheduler:
    """Accepts jobs and hands out batches to workers. Thread-safe."""

    def __init__(
        self,
        clock: Clock,
        limit: int | PixelBound,
        observer: Observer | None = None,
        slots: float = math.inf,
        linger_s: float = 0.0,
        divide_s: float = 0.0,
        batch_returned: Callable[[], None] = lambda: None,
    ) -> None:
        """Accept at most `limit` pixels at a time, and run batches in at most `slots` slots.

        Other processes can share the bound on pixels. `batch_returned` is called in the worker's
        thread once the outputs of a batch are set as the results of its jobs. It must not raise.

        Waiting rows that are expected to take less than `divide_s` seconds run in one batch even if
        several could start. `slots`, `linger_s` and `divide_s` may be set until the first batch is
        taken.
        """
        self._clock = clock
        self._bound = LocalPixelBound(limit) if isinstance(limit, int) else limit
        self.slots = slots
        self.linger_s = linger_s
        self.divide_s = divide_s
        self._observer = observer
        self._batch_returned = batch_returned
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._waiting = WaitingJobs()
        self._pixels = 0
        self._running = 0
        self._used_slots = 0.0
        # Current runs by thread: start time and label of the group.
        self._runs: dict[int, tuple[float, str]] = {}
        self._history = BatchHistory()
        self._draining = False
        self._drained: Future[None] = Future()

    @property
    def pixels(self) -> int:
        """The pixels of this scheduler that count toward the queue limit."""
        return self._pixels

    def longest_run(self) -> tuple[float, str]:
        """Return the seconds and the group label of the longest current run; (0, "") if none.

        Works without the lock, which a thread holds while it waits for other processes that share
        the bound on pixels: whether this process hangs can be checked nevertheless.
        """
        now = self._clock()
        started, label = min(list(self._runs.values()), default=(now, ""))
        return max(now - started, 0.0), label

    # Jobs in

    def submit(self, job: InferenceJob, *, wake: bool = True) -> None:
        """Accept a job. Raises QueueFull, JobTooLarge or Draining; the job is then not accepted.

        Without `wake`, no idle worker is woken until `wake` or the next `submit` with it, so that
        jobs which are submitted shortly after each other start in one batch.
        """
        with self._lock:
            if self._draining:
                raise Draining
            limit = self._bound.limit
            if job.pixels > limit:
                raise JobTooLarge(f"{job.pixels:,} pixels, the limit is {limit:,}")
            if excess := self._bound.reserve(job.pixels, low=job.priority is Priority.LOW):
                # All processes that hold pixels work them off in the same time.
                seconds = self._history.estimate_seconds(excess) / self._bound.holders()
                raise QueueFull(seconds)
            self._pixels += job.pixels
            job.times.submitted = self._clock()
            self._waiting.add(job)
            if wake:
                self._work.notify()
        self._notify_queue_size()

    def wake(self) -> None:
        """Wake an idle worker, for the jobs that were submitted without waking one."""
        with self._lock:
            if self._waiting:
                self._work.notify()

    def cancel(self, job: InferenceJob) -> None:
        """Drop the rows that are not assigned to a worker; the job ends as cancelled.

        If no row has been assigned, the job's share of the limit is freed immediately.
        """
        with self._lock:
            job._cancelled = True
            waiting = job._assigned < job.rows
        if waiting:
            self._end(job, CancelledError())

    def release(self, *jobs: InferenceJob) -> None:
        """Release held jobs: their share of the limit is freed as soon as their work has ended."""
        with self._lock:
            for job in jobs:
                job._held = False
        self._free_finished(jobs)

    def drain(self) -> Future[None]:
        """Accept no more jobs. The returned future resolves when the last job has ended."""
        with self._lock:
            self._draining = True
        self._resolve_if_drained()
        return self._drained

    # Batches out

    def take(self, timeout: float | None = None) -> Batch | None:
        """Wait for the next batch and return it; None after `timeout` seconds or when drained."""
        while True:
            dead: list[tuple[InferenceJob, BaseException]] = []
            with self._lock:
                # Read the clock once: if it were read twice, the linger time could end between the
                # two readings, and the wait below would have no end.
                now = self._clock()
                batch = self._next_batch(now, dead)
                self._occupy(batch)
                if batch is None and not dead:
                    if self._drained.done():
                        return None
                    linger = self._linger_left(now)
                    wait = min((t for t in (timeout, linger) if t is not None), default=None)
                    if not self._work.wait(wait) and wait == timeout:
                        return None
            # Outside the lock, because callbacks of a future may call the scheduler.
            for job, error in dead:
                self._end(job, error)
            if batch is not None:
                return batch

    def take_short(self, is_short: Callable[[Speed], bool]) -> Batch | None:
        """Return the next batch if the batches of its group are short; otherwise None.

        The caller executes the batch, like a worker. Does not wait, so the batch does not wait for
        further rows.
        """
        dead: list[tuple[InferenceJob, BaseException]] = []
        with self._lock:
            batch = self._next_batch(None, dead, is_short)
            self._occupy(batch)
        for job, error in dead:
            self._end(job, error)
        return batch

    def _occupy(self, batch: Batch | None) -> None:
        """Count a batch as running."""
        if batch is not None:
            self._running += 1
            self._used_slots += self._slots_of(batch.group)

    def _next_batch(
        self,
        now: float | None,
        dead: list[tuple[InferenceJob, BaseException]],
        may_run: Callable[[Speed], bool] = lambda _: True,
    ) -> Batch | None:
        """Form a batch from the group whose turn it is. Add jobs that may not run to `dead`.

        Returns None if `may_run` is false for the group's speed. The group does not wait for
        further rows if `now` is None.
        """
        while (turn := self._waiting.next()) is not None:
            group = next(self._waiting.jobs(turn)).group
            if not may_run(self._history.speed(turn.group)):
                return None
            if self._used_slots + self._slots_of(group) > self.slots:
                return None
            if now is not None and self._linger_left(now, turn):
                return None
            max_rows = self._history.max_rows(group, self._clock())
            rows = self._rows_for_next_batch(group, self._waiting.jobs(turn), max_rows)
            parts, not_run = self._waiting.take(turn, rows, self._reason_not_to_run)
            dead += not_run
            if self._waiting:
                # The notification for them may have reached this worker, or one that lets its group
                # linger.
                self._work.notify()
            if parts:
                return Batch(group, parts, alone=not (self._running or self._waiting))
        return None

    def _linger_left(self, now: float, turn: Turn | None = None) -> float | None:
        """Return the seconds that the only waiting group still waits for more rows, or None if it
        should run now.

        Clients that wait for their responses send their next requests shortly after a batch ends,
        but not at the same instant. If the first of these requests ran immediately, it would run
        alone, which costs more per row. A group therefore waits until it has as many rows as its
        last batch had, at most half of that batch's duration. `turn` is the next turn, if known.
        """
        if not self.linger_s or self._draining or self._waiting.groups != 1:
            return None
        if turn is None and (turn := self._waiting.next()) is None:
            return None
        rows, seconds, *_ = self._history.speed(turn.group)
        first = math.inf
        for job in self._waiting.jobs(turn):
            rows -= job.rows - job._assigned
            if rows <= 0 or job.times.submitted is None:
                return None
            first = min(first, job.times.submitted)
        until = first + min(self.linger_s, seconds / 2)
        return until - now if until > now else None

    def _rows_for_next_batch(
        self, group: BatchGroup, jobs: Iterable[InferenceJob], max_rows: int
    ) -> int:
        """Return how many rows of a group's `jobs` the next batch takes, at most `max_rows`.

        If several batches could start now, the waiting rows are divided among them: one batch of
        all rows would take longer than two parallel batches of half of them. This does not hold for
        batches that take less time than waking another thread.
        """
        slots = self._slots_of(group)
        if self.slots == math.inf:
            return max_rows
        batches = int((self.slots - self._used_slots) // slots) // self._waiting.groups
        if batches < 2:
            return max_rows
        waiting = 0
        for job in jobs:
            waiting += job.rows - job._assigned
            if waiting >= batches * max_rows:
                return max_rows
        per_row = self._history.speed(group.key).shortest_per_row
        if waiting <= max_rows and waiting * per_row < self.divide_s:
            return waiting
        return math.ceil(waiting / batches)

    def _reason_not_to_run(self, job: InferenceJob) -> BaseException | None:
        """Return the reason why a waiting or started job may not run, or None if it may.

        After the first call for a job only the scheduler can end the job's future.
        """
        if job._assigned == 0 and not job.future.set_running_or_notify_cancel():
            return CancelledError()
        if job._cancelled:
            return CancelledError()
        if self._clock() >= job.deadline:
            return DeadlineExceeded("the deadline passed before all of the job had run")
        return None

    def _slots_of(self, group: BatchGroup) -> float:
        """Return the slots that a batch occupies: `group.slots`, limited to the existing slots."""
        return min(group.slots, self.slots)

    # Execution

    def execute(self, batch: Batch) -> None:
        """Run a batch from `take` and return its rows. Errors become the errors of its jobs."""
        self._record_start(batch)
        try:
            self._run_live_parts(batch)
        finally:
            with self._lock:
                self._running -= 1
                self._used_slots -= self._slots_of(batch.group)
                if self._waiting:
                    # The group whose turn it is may be waiting for these slots.
                    self._work.notify_all()

    def _run_live_parts(self, batch: Batch) -> None:
        """Run the parts of a batch whose jobs are still alive; return the others without
        running.
        """
        live = []
        for part in batch.parts:
            job = part.job
            if not job._ended and (reason := self._reason_not_to_run(job)) is not None:
                self._end(job, reason)
            if job._ended:
                self._return_rows(part, None)
            else:
                live.append(part)
        if live:
            self._run_or_halve(Batch(batch.group, live, batch.alone))

    def _run_or_halve(self, batch: Batch) -> None:
        started = self._clock()
        thread = threading.get_ident()
        with self._lock:
            self._runs[thread] = (started, batch.group.label)
        try:
            outputs = batch.run()
        # Every error is passed to the jobs, including those that are not an Exception: without its
        # worker thread, the service would look ready but not respond.
        except BaseException as error:  # noqa: BLE001
            if batch.rows == 1:
                self._return_rows(batch.parts[0], error)
                return
            if isinstance(error, MemoryError):
                self._reduce_batches(batch)
            for half in batch.halves():
                self._run_live_parts(half)
            return
        finally:
            with self._lock:
                self._runs.pop(thread, None)
        seconds = self._clock() - started
        with self._lock:
            self._history.record(batch, seconds, self._running)
        self.notify(lambda observer: observer.ran(batch.group, batch.rows, seconds))
        self._return_batch(batch, outputs)
        # Last, so that no job waits for it.
        self.notify(lambda observer: observer.produced(batch, outputs))

    def _reduce_batches(self, batch: Batch) -> None:
        """Limit the batches of a group that ran out of memory, for some time."""
        with self._lock:
            rows = self._history.reduce(batch, self._clock())
        log.warning(
            "%s: out of memory with a batch of %d rows; limited to %d rows for %.0f s",
            batch.group.label or batch.group.key,
            batch.rows,
            rows,
            SMALLER_BATCHES_S,
        )

    # Results

    def _return_batch(self, batch: Batch, outputs: Rows) -> None:
        """Take the outputs of a batch back from a worker."""
        ended, row = [], 0
        with self._lock:
            now = self._clock()
            for part in batch.parts:
                job = part.job
                job._in_flight -= part.rows
                end = row + part.rows
                job._returned[part.start] = {
                    name: array[row:end] for name, array in outputs.items()
                }
                job._returned_rows += part.rows
                row = end
                if job._returned_rows == job.rows and not job._ended:
                    job._ended, job.times.ended = True, now
                    ended.append(job)
        for job in ended:
            _resolve(job)
        self._batch_returned()
        self._free_finished([part.job for part in batch.parts])

    def _return_rows(self, part: Part, error: BaseException | None) -> None:
        """Take rows without outputs back from a worker: they failed with `error`, or were not run
        if it is None.
        """
        with self._lock:
            part.job._in_flight -= part.rows
        if error is not None:
            self._end(part.job, error)
        self._free_finished([part.job])

    def _end(self, job: InferenceJob, error: BaseException) -> None:
        """End the job's future with `error`, unless the job has ended."""
        with self._lock:
            if job._ended:
                return
            job._ended = True
            job.times.ended = self._clock()
            if job in self._waiting and self._waiting.remove(job):
                # A worker may be waiting for this group.
                self._work.notify_all()
        if job.future.running():
            job.future.set_exception(error)
        else:
            job.future.cancel()
        self._free_finished([job])

    def _free_finished(self, jobs: Iterable[InferenceJob]) -> None:
        """Free the pixels of those jobs that have ended and are released, and of which no worker
        holds rows.
        """
        freed = False
        with self._lock:
            for job in jobs:
                if job._ended and not (job._freed or job._in_flight or job._held):
                    job._freed = freed = True
                    self._pixels -= job.pixels
                    self._bound.free(job.pixels, low=job.priority is Priority.LOW)
        if freed:
            self._notify_queue_size()
            self._resolve_if_drained()

    def _resolve_if_drained(self) -> None:
        with self._lock:
            if not (self._draining and self._pixels == 0) or self._drained.done():
                return
            self._drained.set_result(None)
            self._work.notify_all()

    # Measurements

    def notify(self, event: Callable[[Observer], None]) -> None:
        """Call the observer, if there is one. Its errors are logged and do not affect jobs."""
        if self._observer:
            try:
                event(self._observer)
            except Exception:
                log.exception("the observer failed")

    def _notify_queue_size(self) -> None:
        self.notify(lambda observer: observer.queued(self._pixels))

    def _record_start(self, batch: Batch) -> None:
        now = self._clock()
        for part in batch.parts:
            times = part.job.times
            # Later parts of a job may run before the first one, on other workers.
            if part.start == 0:
                times.started = now
                if times.submitted is not None:
                    self._notify_wait(part.job, now - times.submitted)

    def _notify_wait(self, job: InferenceJob, seconds: float) -> None:
        self.notify(lambda observer: observer.waited(job.group, seconds, job.priority))


def _resolve(job: InferenceJob) -> None:
    """Set the result of a job whose rows have all been returned."""
    try:
        parts = [job._returned[start] for start in sorted(job._returned)]
        outputs = {name: concatenated([part[name] for part in parts]) for name in parts[0]}
    except Exception as mismatch:  # noqa: BLE001 - incompatible parts are an error of the job
        job.future.set_exception(mismatch)
    else:
        job.future.set_result(outputs)
