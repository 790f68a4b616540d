"""The engine: a catalog, a scheduler, its workers and the encoders, under one state.

permit → queue → batch → reply: `submit` permits and queues, the workers batch, the job's future
replies.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TypeVar

from service.runtime.latent.styles import StyleCache
from service.runtime.models.catalog import Catalog, Changes, State
from service.runtime.models.manifest import GENERATOR
from service.runtime.models.memory_budget import MemoryBudget
from service.runtime.models.model import Model
from service.runtime.models.watcher import Watcher
from service.runtime.onnx.execution_plans import Planner, PlanOptions, slots
from service.runtime.onnx.machine import release_memory, usable_cpus
from service.runtime.onnx.provider_option import ProviderOption
from service.runtime.onnx.sessions import (
    Array,
    Provider,
    ProviderUnavailable,
    cuda_unavailable_reason,
    pick_provider,
)
from service.runtime.scheduling.batches import BatchGroup, InferenceJob, Rows
from service.runtime.scheduling.scheduler import Observer, Scheduler
from service.runtime.scheduling.workers import Workers

log = logging.getLogger("ganymede.engine")

T = TypeVar("T")

# Some 2,000 sources of a large model (14 layers of 512), or 100,000 of a small one.
STYLE_CACHE_BYTES = 64 * 2**20
# What is encoded in less time than it takes to wake another thread for it.
_AT_ONCE_PIXELS = 2**14
# For so long a batch waits for the rows that it may expect. On a GPU that has not been measured.
_LINGER_S = 0.002


class EngineState(StrEnum):
    """What the engine does with a job. One that has failed may become ready by a reload."""

    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"
    DRAINING = "draining"
    STOPPED = "stopped"


class NotReady(Exception):
    """The engine takes no jobs; the message says why."""


class Engine:
    """Loads a models folder and runs its generators."""

    def __init__(
        self,
        models: Path,
        *,
        provider: ProviderOption,
        queue_pixels: int,
        observer: Observer | None = None,
        plan: PlanOptions | None = None,
        plan_cache: Path | None = None,
        watch_s: float = 0.0,
        memory_budget: int | None = None,
    ) -> None:
        """Prepare, and load nothing yet: that is `start`.

        With `watch_s` the models folder is looked at in such intervals, in seconds, and what has
        changed there is loaded. Without a `plan` nothing is measured. Models beyond a
        `memory_budget`, in bytes, are loaded when they are asked for, and others given back.
        """
        self.models = models
        self.wish = provider
        self.provider: Provider | None = None
        self.catalog: Catalog | None = None
        self.clock = time.monotonic
        self.state = EngineState.STARTING
        self.reason: str | None = "the models are being loaded"
        self._encoders = ThreadPoolExecutor(usable_cpus(), thread_name_prefix="ganymede-encoder")
        self._plan = plan or PlanOptions(measure=False)
        self._plan_cache = plan_cache
        self._watch_s = watch_s
        self._budget = None if memory_budget is None else MemoryBudget(memory_budget)
        self._watcher: Watcher | None = None
        self._slots = 1
        self._scheduler = Scheduler(self.clock, queue_pixels, observer)
        self._workers: Workers | None = None
        self.styles = StyleCache(STYLE_CACHE_BYTES)
        self._transition = threading.Condition()
        self._permits = 0
        self._reloading = threading.Lock()

    def start(self) -> None:
        """Load every model and become ready, or failed with a reason. Never raises."""
        try:
            self._start()
        except Exception as error:
            # Started in a thread of its own, where an error would leave it starting for ever.
            log.exception("the start failed")
            self._become(EngineState.FAILED, f"the start failed: {error}")

    def _start(self) -> None:
        try:
            self.provider = pick_provider(self.wish)
        except ProviderUnavailable as error:
            self._become(EngineState.FAILED, f"provider {self.wish!r} did not come up: {error}")
            return
        if self.wish == "auto" and self.provider is Provider.CPU:
            log.info("running on the CPU: %s", cuda_unavailable_reason())
        self._slots = self._scheduler.slots = slots(self.provider, self._plan)
        self._scheduler.linger_s = _LINGER_S if self.provider is Provider.CPU else 0.0
        planner = Planner(self.provider, self._plan, self._plan_cache)
        catalog = Catalog(self.models, self.provider, planner, budget=self._budget)
        if self._watch_s:
            # Before the first load, so that nothing changes unseen.
            self._watcher = Watcher(self.models, self._watch_s, self.reload)
        catalog.load()
        with self._transition:
            if self.state is not EngineState.STARTING:
                return
            self._workers = Workers(self._scheduler, self._slots)
            self._workers.start()
            self._serve(catalog)
        # Measuring plans leaves holes behind.
        release_memory()
        if self._watcher:
            self._watcher.start()
        log.info("%s: %d workers on %s", self.state, self._slots, self.provider)

    def _serve(self, catalog: Catalog) -> None:
        """Serve what `catalog` holds, from now on; the lock is held."""
        self.catalog = catalog
        if any(entry.state is State.READY for entry in catalog.entries):
            self.state, self.reason = EngineState.READY, None
            return
        found = "; ".join(f"{e.id}: {e.reason}" for e in catalog.entries)
        self.state = EngineState.FAILED
        self.reason = f"no model in {self.models} is ready ({found or 'it is empty'})"
        log.error("not ready: %s", self.reason)

    def reload(self, skip: Collection[Path] = ()) -> Changes:
        """Serve what the models folder holds now, but for the folders in `skip`.

        Jobs that have been submitted end on the model that they were submitted for. An engine that
        had no model ready becomes ready with the first. Raises NotReady, and RepositoryUnreadable.
        """
        with self._reloading:
            before = self.catalog
            if before is None or self.state not in (EngineState.READY, EngineState.FAILED):
                raise NotReady(self.reason or self.state)
            catalog, changes = before.reload(skip)
            del before
            with self._transition:
                if self.state in (EngineState.READY, EngineState.FAILED):
                    self._serve(catalog)
            del catalog
            if changes.loaded or changes.failed or changes.removed:
                # The sessions that are gone leave holes behind, and so does reading new ones.
                release_memory()
        return changes

    @contextmanager
    def permit(self) -> Iterator[None]:
        """Hold for one request from its start to its end: a drain waits for it.

        So a request of several jobs, once begun, can submit all of them. Raises NotReady.
        """
        with self._transition:
            if self.state is not EngineState.READY:
                raise NotReady(self.reason or self.state)
            self._permits += 1
        try:
            yield
        finally:
            with self._transition:
                self._permits -= 1
                self._transition.notify_all()

    def longest_run(self) -> tuple[float, str]:
        """Return for how many seconds the oldest of the present runs has run, and its model."""
        return self._scheduler.longest_run()

    def submit(
        self,
        model: Model,
        feeds: Rows,
        deadline: float = math.inf,
        role: str = GENERATOR,
    ) -> InferenceJob:
        """Queue the rows of `feeds`; the job's future ends with what `Model.run` gives for `role`.

        Who submits for a request holds a `permit`. `deadline` is a time of `clock`. The job is
        held: `encode` sees to what follows and then lets go of it, and who does not call that calls
        `abandon`. Raises NotReady, and what Scheduler.submit raises.
        """
        if self._workers is None or self.state is EngineState.STOPPED:
            raise NotReady(self.reason or self.state)
        pixels = model.pixels_per_row(role, feeds)
        lane = BatchGroup(
            # Only rows of one shape go into one array.
            key=(model.digest, role, *(array.shape[1:] for array in feeds.values())),
            run=partial(model.run, role),
            max_rows=model.max_rows(pixels),
            pixels_per_row=pixels,
            label=model.manifest.name,
            # As many of its batches at a time as its plan has workers.
            slots=math.ceil(self._slots / model.plan.workers),
            run_alone=partial(model.run, role, alone=True) if model.plan.alone else None,
        )
        job = InferenceJob(lane, feeds, deadline, held=True)
        self._scheduler.submit(job)
        return job

    def encode(self, job: InferenceJob, work: Callable[[Rows], T]) -> Future[T]:
        """Run `work` on the outputs of `job` as soon as they are there, in the encoders' pool.

        From the worker to the pool, without the event loop between them; little work is done by the
        worker itself, unless that has a GPU to keep busy. The future ends with what `work` gives,
        or with the error of either; who cancels it cancels what has not begun. The job keeps its
        place within the bound until then, so that what waits to be encoded is bounded too.
        """
        encoded: Future[T] = Future()
        asking = threading.get_ident()
        # Taken out when it is called: the job's future keeps the callback, and the three would hold
        # each other, and the pictures, until the garbage collector comes.
        held = [(job, work)]

        def go_on(ran: Future[dict[str, Array]]) -> None:
            ended, follows = held.pop()
            if ran.cancelled() or ran.exception() is not None:
                # Which raises what the run did.
                self._finish(ended, encoded, lambda: follows(ran.result()))
                return
            outputs = ran.result()
            then = partial(
                self._finish, ended, encoded, lambda: self._timed(ended, follows, outputs)
            )
            # In the thread that asks where the job has ended before; that may be an event loop's.
            by_worker = threading.get_ident() != asking
            if by_worker and self.provider is Provider.CPU and ended.pixels <= _AT_ONCE_PIXELS:
                then()
            else:
                self._encoders.submit(then)

        job.future.add_done_callback(go_on)
        return encoded

    def _finish(self, job: InferenceJob, encoded: Future[T], work: Callable[[], T]) -> None:
        """End `encoded` by what `work` gives or raises, and let go of the job."""
        try:
            if not encoded.set_running_or_notify_cancel():
                return
            try:
                found = work()
            except BaseException as error:  # noqa: BLE001 - whoever waits for it is told
                encoded.set_exception(error)
            else:
                encoded.set_result(found)
        finally:
            self._scheduler.release(job)

    def _timed(self, job: InferenceJob, work: Callable[[Rows], T], outputs: Rows) -> T:
        job.times.encoding = begun = self.clock()
        try:
            return work(outputs)
        finally:
            job.times.encoded = ended = self.clock()
            self._scheduler.tell(lambda observer: observer.encoded(job.lane, ended - begun))

    def cancel(self, job: InferenceJob) -> None:
        """Drop what nobody waits for any more, of a job that `encode` has been called for."""
        self._scheduler.cancel(job)

    def abandon(self, job: InferenceJob) -> None:
        """Cancel a job that nobody waits for any more, and let go of it."""
        self._scheduler.cancel(job)
        self._scheduler.release(job)

    def drain(
        self,
        timeout: float,
        reason: str = "the service is shutting down",
        *,
        permitted_only: bool = False,
    ) -> bool:
        """Take in nothing more; wait for what was permitted and for the accepted jobs.

        True when all of it has ended within `timeout`, in seconds. With `permitted_only`, jobs that
        no request waits for any more are left to the workers, that have perhaps hung with them.
        """
        end = self.clock() + timeout
        self._become(EngineState.DRAINING, reason)
        if self._watcher:
            self._watcher.stop()
        with self._transition:
            answered = self._transition.wait_for(lambda: not self._permits, timeout)
        drained = self._scheduler.drain()
        if answered and permitted_only:
            return True
        try:
            drained.result(max(end - self.clock(), 0.0))
        except FutureTimeout:
            answered = False
        if not answered:
            log.warning("work is undone after %g s", timeout)
            return False
        if self._workers:
            self._workers.join(timeout=1)
        self._become(EngineState.STOPPED, "the service has stopped")
        self._encoders.shutdown(wait=True)
        return True

    def _become(self, state: EngineState, reason: str) -> None:
        with self._transition:
            self.state, self.reason = state, reason
        if state is EngineState.FAILED:
            log.error("not ready: %s", reason)
