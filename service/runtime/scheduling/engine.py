"""The engine: catalog, scheduler, workers and encoders under one state.

permit → queue → batch → reply: `submit` checks and queues, workers run batches, and the job's
future replies. Short batches run in the thread that submits their jobs (`run_short_batch`).
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TypeVar

from service.runtime.latent.style_cache import StyleCache
from service.runtime.models.catalog import Catalog, Changes, State
from service.runtime.models.memory_budget import MemoryBudget
from service.runtime.models.model import Model
from service.runtime.models.parts.graphs import GENERATOR
from service.runtime.models.updates import ModelUpdates
from service.runtime.models.watcher import Watcher
from service.runtime.onnx.execution_plans import Planner, PlanOptions, slots
from service.runtime.onnx.machine import ProviderOption, release_memory
from service.runtime.onnx.sessions import (
    Provider,
    ProviderUnavailable,
    cuda_unavailable_reason,
    pick_provider,
)
from service.runtime.scheduling.batch_history import Speed
from service.runtime.scheduling.batches import BatchGroup, InferenceJob, Priority, Rows
from service.runtime.scheduling.encoders import INLINE_PIXELS, Encoders
from service.runtime.scheduling.observer import Observer
from service.runtime.scheduling.pixel_bounds import PixelBound
from service.runtime.scheduling.scheduler import Scheduler
from service.runtime.scheduling.workers import Workers

log = logging.getLogger("ganymede.engine")

T = TypeVar("T")

# About 2,000 styles of a large model (14 layers of 512), or 100,000 of a small one.
STYLE_CACHE_BYTES = 64 * 2**20
# How long a batch waits for expected rows on a CPU. Not measured on a GPU.
_LINGER_S = 0.002
# Batches that take at most this time per row, or in all, run in the thread that submits them: it
# spends as much time on each request, and another thread would compete for the interpreter's lock.
_SHORT_S_PER_ROW = 0.0002
_SHORT_S = 0.001
# Rows that take less time than this run in one batch on a CPU, instead of one batch per worker.
_DIVIDE_S = 0.004


class EngineState(StrEnum):
    """The engine's state. A failed engine may become ready by a reload."""

    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"
    DRAINING = "draining"
    STOPPED = "stopped"


class NotReady(Exception):
    """The engine accepts no jobs; the message gives the reason."""


class Engine:
    """Loads a models folder and runs its generators."""

    def __init__(
        self,
        models: Path,
        *,
        provider: ProviderOption,
        queue_pixels: int | PixelBound,
        observer: Observer | None = None,
        plan: PlanOptions | None = None,
        plan_cache: Path | None = None,
        second_plan_cache: Path | None = None,
        watch_s: float = 0.0,
        memory_budget: int | None = None,
    ) -> None:
        """Prepare the engine; `start` loads the models.

        If `watch_s` is positive, the models folder is checked at this interval in seconds and
        changes are loaded. Without a `plan`, execution plans are not measured. Measured plans are
        cached in the file `plan_cache`, or in `second_plan_cache` if that cannot be written. If the
        models exceed `memory_budget` bytes, they are loaded on demand and the least recently used
        ones are unloaded.
        """
        self.models = models
        self.provider_option = provider
        self.provider: Provider | None = None
        self._catalog: Catalog | None = None
        self._updates: ModelUpdates | None = None
        self.clock = time.monotonic
        self.state = EngineState.STARTING
        self.reason: str | None = "the models are being loaded"
        self._plan = plan or PlanOptions(measure=False)
        self._plan_caches = plan_cache, second_plan_cache
        self._watch_s = watch_s
        self._budget = None if memory_budget is None else MemoryBudget(memory_budget)
        self._watcher: Watcher | None = None
        self._slots = 1
        self._scheduler = Scheduler(
            self.clock,
            queue_pixels,
            observer,
            batch_returned=lambda: self._encoders.deliver(),  # noqa: PLW0108 - created below
        )
        self._encoders = Encoders(self._scheduler, self.clock)
        self._workers: Workers | None = None
        self.styles = StyleCache(STYLE_CACHE_BYTES)
        self._transition = threading.Condition()
        self._permits = 0
        self._reloading = threading.Lock()

    @property
    def catalog(self) -> Catalog | None:
        """The models that are served; None before they are loaded."""
        if self._updates is not None:
            self._updates.follow()
        return self._catalog

    @property
    def measures_plans(self) -> bool:
        """Whether execution plans are measured."""
        return self._plan.measure

    def share_updates(self, updates: ModelUpdates) -> None:
        """Reload together with the other processes of a server. Called before `start`."""
        self._updates = updates

    def start(self) -> None:
        """Load all models and become ready, or failed with a reason. Never raises."""
        try:
            self._start()
        except Exception as error:
            # This runs in its own thread: an error would leave the engine starting forever.
            log.exception("startup failed")
            self._become(EngineState.FAILED, f"startup failed: {error}")

    def _start(self) -> None:
        try:
            self.provider = pick_provider(self.provider_option)
        except ProviderUnavailable as error:
            self._become(
                EngineState.FAILED, f"provider {self.provider_option!r} is unavailable: {error}"
            )
            return
        if self.provider_option == "auto" and self.provider is Provider.CPU:
            log.info("running on the CPU: %s", cuda_unavailable_reason())
        self._slots = self._scheduler.slots = slots(self.provider, self._plan)
        if self.provider is Provider.CPU:
            self._scheduler.linger_s, self._scheduler.divide_s = _LINGER_S, _DIVIDE_S
            self._encoders.inline_pixels = INLINE_PIXELS
        planner = Planner(self.provider, self._plan, *self._plan_caches)
        catalog = Catalog(self.models, self.provider, planner, budget=self._budget)
        if self._watch_s:
            # Created before the first load, so that no change is missed.
            may_watch = self._updates.may_watch if self._updates else lambda: True
            self._watcher = Watcher(self.models, self._watch_s, self.reload, may_watch)
        catalog.load()
        self.serve(catalog)
        if self._updates:
            self._updates.enter(catalog)
        del catalog
        with self._transition:
            if self.state is not EngineState.STARTING or self._catalog is None:
                return
            self._workers = Workers(self._scheduler, self._slots)
            self._workers.start()
            self._serve(self._catalog)
        # Measuring plans fragments the memory.
        release_memory()
        if self._watcher:
            self._watcher.start()
        log.info("%s: %d workers on %s", self.state, self._slots, self.provider)

    def _serve(self, catalog: Catalog) -> None:
        """Switch to `catalog`. The caller holds the lock."""
        self._catalog = catalog
        if any(entry.state is State.READY for entry in catalog.entries):
            self.state, self.reason = EngineState.READY, None
            return
        reasons = "; ".join(f"{e.id}: {e.reason}" for e in catalog.entries)
        self.state = EngineState.FAILED
        self.reason = f"no model in {self.models} is ready ({reasons or 'it is empty'})"
        log.error("not ready: %s", self.reason)

    def serve(self, catalog: Catalog) -> None:
        """Serve `catalog` from now on; an engine that is starting serves it once it is ready."""
        with self._transition:
            if self.state is EngineState.STARTING:
                self._catalog = catalog
            elif self.state in (EngineState.READY, EngineState.FAILED):
                self._serve(catalog)

    def reload(self, skip: Collection[Path] = ()) -> Changes:
        """Load the changes in the models folder, except for the folders in `skip`.

        Jobs that were already submitted still run on the model that they were submitted to. A
        failed engine becomes ready if a model is ready. Raises NotReady, RepositoryUnreadable and
        ReloadFailed.
        """
        with self._reloading:
            if self._catalog is None or self.state not in (EngineState.READY, EngineState.FAILED):
                raise NotReady(self.reason or self.state)
            if self._updates:
                return self._updates.reload(skip)
            catalog, changes = self._catalog.reload(skip)
            self.serve(catalog)
            del catalog
            if changes.loaded or changes.failed or changes.removed:
                # Unloading and loading sessions fragments the memory.
                release_memory()
        return changes

    def acquire_permit(self) -> None:
        """Take a permit for one request; `drain` waits until it is released.

        A request that holds a permit can submit further jobs while the engine drains. Raises
        NotReady.
        """
        with self._transition:
            if self.state is not EngineState.READY:
                raise NotReady(self.reason or self.state)
            self._permits += 1

    def release_permit(self) -> None:
        """Return a permit."""
        with self._transition:
            self._permits -= 1
            self._transition.notify_all()

    def longest_run(self) -> tuple[float, str]:
        """Return the seconds and the model of the longest current run."""
        return self._scheduler.longest_run()

    def submit(
        self,
        model: Model,
        feeds: Rows,
        deadline: float = math.inf,
        role: str = GENERATOR,
        *,
        priority: Priority = Priority.NORMAL,
        wake: bool = True,
    ) -> InferenceJob:
        """Queue the rows of `feeds`; the job's future resolves to the result of `Model.run` for
        `role`.

        Without `wake`, the caller calls `wake` after it has submitted other jobs.

        The caller holds a `permit`. `deadline` is a time of `clock`. The job is held: the caller
        must call `encode`, which releases it after processing its outputs, or `abandon`. Raises
        NotReady, and the errors of Scheduler.submit.
        """
        if self._workers is None or self.state is EngineState.STOPPED:
            raise NotReady(self.reason or self.state)
        pixels = model.pixels_per_row(role, feeds)
        group = BatchGroup(
            # Only rows of one shape fit into one array.
            key=(model.digest_of(role), role, *(array.shape[1:] for array in feeds.values())),
            run=partial(model.run, role),
            max_rows=model.max_rows(pixels),
            pixels_per_row=pixels,
            label=model.manifest.name,
            # At most as many parallel batches as the plan has workers.
            slots=math.ceil(self._slots / model.plan.workers),
            run_alone=partial(model.run, role, alone=True) if model.plan.alone else None,
        )
        job = InferenceJob(group, feeds, deadline, priority=priority, held=True)
        self._scheduler.submit(job, wake=wake)
        return job

    def wake(self) -> None:
        """Wake a worker, for jobs that were submitted without waking one."""
        self._scheduler.wake()

    def run_short_batch(self) -> bool:
        """Run the next batch in the calling thread, if it is expected to be short.

        Returns False if there is none; then `wake` lets a worker run the next batch.
        """
        # A run on a GPU, or of a model that has to be loaded first, is never short.
        if self.provider is not Provider.CPU or self._budget is not None:
            return False
        batch = self._scheduler.take_short(_is_short)
        if batch is None:
            return False
        self._scheduler.execute(batch)
        return True

    def encode(
        self, job: InferenceJob, work: Callable[[Rows], T], *, long: bool = False
    ) -> Future[T]:
        """Call `work` with the outputs of `job` as soon as they are available; see Encoders."""
        return self._encoders.encode(job, work, long=long)

    def cancel(self, job: InferenceJob) -> None:
        """Drop the remaining rows of a job for which `encode` was called."""
        self._scheduler.cancel(job)

    def abandon(self, job: InferenceJob) -> None:
        """Cancel a job and release it."""
        self._scheduler.cancel(job)
        self._scheduler.release(job)

    def drain(
        self,
        timeout: float,
        reason: str = "the service is shutting down",
        *,
        permitted_only: bool = False,
    ) -> bool:
        """Accept no further requests, and wait for requests with a permit and accepted jobs.

        Returns True if all of them ended within `timeout` seconds. With `permitted_only`, the
        engine does not wait for jobs without a waiting request, because their workers may hang.
        """
        end = self.clock() + timeout
        self._become(EngineState.DRAINING, reason)
        if self._watcher:
            self._watcher.stop()
        if self._updates:
            self._updates.stop()
        with self._transition:
            completed = self._transition.wait_for(lambda: not self._permits, timeout)
        drained = self._scheduler.drain()
        if completed and permitted_only:
            return True
        try:
            drained.result(max(end - self.clock(), 0.0))
        except FutureTimeout:
            completed = False
        if not completed:
            log.warning("work is not finished after %g s", timeout)
            return False
        if self._workers:
            self._workers.join(timeout=1)
        self._become(EngineState.STOPPED, "the service has stopped")
        self._encoders.shutdown()
        return True

    def _become(self, state: EngineState, reason: str) -> None:
        with self._transition:
            self.state, self.reason = state, reason
        if state is EngineState.FAILED:
            log.error("not ready: %s", reason)


def _is_short(speed: Speed) -> bool:
    """Return whether batches of this speed run in the thread that submits their jobs."""
    return speed.shortest_per_row <= _SHORT_S_PER_ROW or speed.shortest <= _SHORT_S
