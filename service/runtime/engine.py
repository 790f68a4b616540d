"""The engine: a catalog, a scheduler, its workers and the encoders, under one state.

permit → queue → batch → reply: `submit` permits and queues, the workers batch, the job's future
replies.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TypeVar

from service.runtime.catalog import Catalog, State
from service.runtime.manifest import GENERATOR, MAPPING
from service.runtime.model import Model
from service.runtime.scheduler import Job, Lane, Observer, Rows, Scheduler, Workers
from service.runtime.sessions import (
    Provider,
    ProviderUnavailable,
    ProviderWish,
    pick_provider,
    plan_for,
    usable_cpus,
    why_no_cuda,
)
from service.runtime.styles import StyleCache

log = logging.getLogger("ganymede.engine")

T = TypeVar("T")

# Some 2,000 sources of a large model (14 layers of 512), or 100,000 of a small one.
STYLE_CACHE_BYTES = 64 * 2**20


class EngineState(StrEnum):
    """What the engine does with a job."""

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
        provider: ProviderWish,
        queue_pixels: int,
        observer: Observer | None = None,
    ) -> None:
        """Prepare, and load nothing yet: that is `start`."""
        self.models = models
        self.wish = provider
        self.provider: Provider | None = None
        self.catalog: Catalog | None = None
        self.clock = time.monotonic
        self.state = EngineState.STARTING
        self.reason: str | None = "the models are being loaded"
        self._encoders = ThreadPoolExecutor(usable_cpus(), thread_name_prefix="ganymede-encoder")
        self._scheduler = Scheduler(self.clock, queue_pixels, observer)
        self._workers: Workers | None = None
        self._transition = threading.Lock()
        self.styles = StyleCache(STYLE_CACHE_BYTES)

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
            log.info("running on the CPU: %s", why_no_cuda())
        plan = plan_for(self.provider)
        catalog = Catalog(self.models, self.provider, plan)
        catalog.load()
        self.catalog = catalog
        if not any(entry.state is State.READY for entry in catalog.entries):
            found = "; ".join(f"{e.id}: {e.reason}" for e in catalog.entries)
            self._become(
                EngineState.FAILED, f"no model in {self.models} is ready ({found or 'it is empty'})"
            )
            return
        with self._transition:
            if self.state is not EngineState.STARTING:
                return
            self._workers = Workers(self._scheduler, plan.workers)
            self._workers.start()
            self.state, self.reason = EngineState.READY, None
        log.info("ready: %d workers on %s", plan.workers, self.provider)

    def submit(
        self,
        model: Model,
        feeds: Rows,
        deadline: float = math.inf,
        role: str = GENERATOR,
    ) -> Job:
        """Queue the rows of `feeds`; the job's future ends with what `Model.run` gives for `role`.

        `deadline` is a time of `clock`. The job is held: `encode` lets go of it at its end, and who
        does not come to that calls `abandon`. Raises NotReady, and what Scheduler.submit raises.
        """
        if self.state is not EngineState.READY:
            raise NotReady(self.reason or self.state)
        lane = Lane(
            key=(model.digest, role),
            run=partial(model.run, role),
            max_rows=model.plan.max_rows,
            # Styles are no pictures yet. One pixel a row keeps those that wait bounded too.
            pixels_per_row=1 if role == MAPPING else model.manifest.image.pixels,
            label=model.manifest.name,
        )
        job = Job(lane, feeds, deadline, held=True)
        self._scheduler.submit(job)
        return job

    def encode(self, job: Job, work: Callable[[], T]) -> Future[T]:
        """Run `work` on the outputs of `job` in the encoders' pool, away from the event loop.

        The job keeps its place within the bound until then, so that what waits to be encoded is
        bounded too.
        """
        encoding = self._encoders.submit(work)
        encoding.add_done_callback(lambda _: self._scheduler.release(job))
        return encoding

    def abandon(self, job: Job) -> None:
        """Cancel a job that nobody waits for any more, and let go of it."""
        self._scheduler.cancel(job)
        self._scheduler.release(job)

    def drain(self, timeout: float) -> bool:
        """Take in nothing more; wait for the accepted jobs. True when all of them have ended."""
        self._become(EngineState.DRAINING, "the service is shutting down")
        drained = self._scheduler.drain()
        try:
            drained.result(timeout)
        except FutureTimeout:
            log.warning("stopped with work undone after %.0f s", timeout)
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
