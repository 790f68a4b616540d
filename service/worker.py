"""What the process that serves holds: engine, application and jobs, and how they begin."""

from __future__ import annotations

import asyncio
import sys
import threading

from starlette.exceptions import HTTPException

from service import tracing
from service.api.app import create_app
from service.api.metrics import SchedulerMetrics
from service.api.problems import not_ready
from service.host.shutdown import Lifecycle
from service.offline.queue import JobQueue
from service.runtime.onnx.execution_plans import PlanOptions, cache_file
from service.runtime.onnx.machine import freeze_garbage_collection
from service.runtime.scheduling.engine import Engine, EngineState
from service.settings import Settings


class ServiceWorker:
    """The parts of one service, made for each other."""

    def __init__(self, settings: Settings) -> None:
        self._engine = engine = Engine(
            settings.models,
            provider=settings.provider,
            queue_pixels=settings.queue_pixels,
            observer=SchedulerMetrics(),
            plan=PlanOptions(
                settings.workers,
                settings.threads,
                settings.max_rows,
                measure=settings.plan == "measure",
            ),
            plan_cache=cache_file(),
            watch_s=settings.watch_s,
            memory_budget=settings.memory_budget,
        )
        self._queue = JobQueue(settings.jobs, engine)
        self.lifecycle = Lifecycle(
            engine,
            create_app(engine, settings, self._queue),
            drain_s=settings.drain_s,
            hang_s=settings.hang_s,
        )

    def start(self) -> None:
        """Begin: the engine beside the event loop, so that the process answers meanwhile."""
        # A worker that comes back from a run needs Python's lock for some microseconds, to hand its
        # rows back and take the next: by default it would get it from a busy event loop after 5 ms.
        sys.setswitchinterval(0.0005)
        self.lifecycle.begin()
        tracing.start()
        self._queue.start()
        threading.Thread(target=self._load, name="ganymede-start", daemon=True).start()

    def _load(self) -> None:
        self._engine.start()
        freeze_garbage_collection()

    def assert_alive(self) -> None:
        """Raise what the probe is to answer when a run hangs."""
        if self.lifecycle.hung is not None:
            raise _unready(self.lifecycle.hung)

    def assert_ready(self) -> None:
        """Raise what the probe is to answer while no work is taken."""
        if self._engine.state is not EngineState.READY:
            raise _unready(self._engine.reason or self._engine.state)

    async def stop_tracing(self) -> None:
        """Send what has not been sent. By now the accepted work has ended."""
        if (tracer := tracing.current()) is not None:
            await asyncio.to_thread(tracer.shutdown)


def _unready(reason: str) -> HTTPException:
    problem = not_ready(reason)
    return HTTPException(problem.status, problem.body(), problem.headers())
