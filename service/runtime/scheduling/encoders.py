"""Encoding of the outputs of jobs: in a pool of threads, or by the worker if that is faster."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from service.runtime.onnx.machine import usable_cpus
from service.runtime.onnx.sessions import Array
from service.runtime.scheduling.batches import InferenceJob, Rows
from service.runtime.scheduling.scheduler import Clock, Scheduler

T = TypeVar("T")

# Images up to this size are encoded faster than another thread can be woken.
INLINE_PIXELS = 2**14


class _EncodedInWorker(threading.local):
    """The jobs of the current batch that a worker has encoded, each with a function that resolves
    its future; None if the future was cancelled.
    """

    def __init__(self) -> None:
        self.jobs: list[tuple[InferenceJob, Callable[[], None] | None]] = []


class Encoders:
    """Calls functions with the outputs of jobs, and releases the jobs afterwards.

    Workers process jobs of at most `inline_pixels` themselves; by default none. It may be set until
    the first job is submitted. Not measured on a GPU.
    """

    def __init__(self, scheduler: Scheduler, clock: Clock) -> None:
        self._scheduler = scheduler
        self._clock = clock
        self.inline_pixels = -1
        self._pool = ThreadPoolExecutor(usable_cpus(), thread_name_prefix="ganymede-encoder")
        self._encoded_in_worker = _EncodedInWorker()

    def encode(
        self, job: InferenceJob, work: Callable[[Rows], T], *, long: bool = False
    ) -> Future[T]:
        """Call `work` with the outputs of `job` as soon as they are available, in the encoder pool.

        The worker passes the outputs to the pool directly, without the event loop. It does small
        work (`inline_pixels`) itself, unless `long` states that it takes long all the same, and
        resolves the futures of a batch together: each of them may wake the event loop, which would
        then compete for the interpreter's lock. The future resolves to the result of `work`, or to
        the error of the run or of `work`; cancelling it cancels work that has not started. The job
        counts toward the queue limit until then, so that outputs waiting to be encoded are bounded
        too.
        """
        encoded: Future[T] = Future()
        caller: int | None = threading.get_ident()
        # Emptied by the callback: the job's future keeps the callback, and this reference cycle
        # would keep the images alive until the next garbage collection.
        pending = [(job, work)]

        def process(run: Future[dict[str, Array]]) -> None:
            finished, process_outputs = pending.pop()
            try:
                outputs = run.result()
            except BaseException:  # noqa: BLE001 - passed on to the waiting caller
                # `result` raises the error of the run again.
                self._finish(finished, encoded, lambda: process_outputs(run.result()))
                return
            encode = partial(self._timed, finished, process_outputs, outputs)
            # Not if the job had already ended when `encode` was called.
            in_worker = threading.get_ident() != caller
            if in_worker and not long and finished.pixels <= self.inline_pixels:
                self._finish(finished, encoded, encode, in_worker=True)
            else:
                self._pool.submit(self._finish, finished, encoded, encode)

        job.future.add_done_callback(process)
        caller = None
        return encoded

    def _finish(
        self,
        job: InferenceJob,
        encoded: Future[T],
        work: Callable[[], T],
        *,
        in_worker: bool = False,
    ) -> None:
        """Resolve `encoded` with the result or error of `work`, and release the job.

        With `in_worker`, both are done at the end of the worker's batch.
        """
        resolve: Callable[[], None] | None = None
        if encoded.set_running_or_notify_cancel():
            try:
                resolve = partial(encoded.set_result, work())
            except BaseException as error:  # noqa: BLE001 - passed on to the waiting caller
                resolve = partial(encoded.set_exception, error)
        if in_worker:
            self._encoded_in_worker.jobs.append((job, resolve))
            return
        if resolve is not None:
            resolve()
        self._scheduler.release(job)

    def deliver(self) -> None:
        """Resolve the futures of the jobs that this thread has encoded, and release the jobs."""
        jobs, self._encoded_in_worker.jobs = self._encoded_in_worker.jobs, []
        for _, resolve in jobs:
            if resolve is not None:
                resolve()
        self._scheduler.release(*(job for job, _ in jobs))

    def _timed(self, job: InferenceJob, work: Callable[[Rows], T], outputs: Rows) -> T:
        job.times.encoding = started = self._clock()
        try:
            return work(outputs)
        finally:
            job.times.encoded = ended = self._clock()
            self._scheduler.notify(lambda observer: observer.encoded(job.group, ended - started))

    def shutdown(self) -> None:
        """Wait for the work in the pool, and end its threads."""
        self._pool.shutdown(wait=True)
