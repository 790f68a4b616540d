"""The BentoML service: life cycle and packaging, and nothing else.

BentoML keeps `/livez` and `/readyz`; every other path is the FastAPI application's.
"""

from __future__ import annotations

import asyncio
import os
import threading

# Usage tracking is for each operator to switch on, not off. Read when bentoml is imported.
os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
# One process serves, so its counters live in its memory. BentoML would keep them in a folder that
# all its servers on a machine share, and that each of them empties when it starts.
os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)

import bentoml
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from service import logs, tracing
from service.api.application import create_app
from service.api.errors import not_ready
from service.api.metrics import SchedulerMetrics
from service.arbiter import watch_the_worker
from service.connections import guard
from service.lifecycle import Lifecycle
from service.offline.queue import JobQueue
from service.runtime.engine import Engine, EngineState
from service.runtime.plans import PlanWish, cache_file
from service.settings import load

settings = load()
guard(settings)
# BentoML's arbiter imports this module too, so its lines have the same form.
logs.configure(settings.log_format)
engine = Engine(
    settings.models,
    provider=settings.provider,
    queue_pixels=settings.queue_pixels,
    observer=SchedulerMetrics(),
    plan=PlanWish(
        settings.workers, settings.threads, settings.max_rows, measure=settings.plan == "measure"
    ),
    plan_cache=cache_file(),
    watch_s=settings.watch_s,
    memory_budget=settings.memory_budget,
)
queue = JobQueue(settings.jobs, engine)
lifecycle = Lifecycle(
    engine, create_app(engine, settings, queue), drain_s=settings.drain_s, hang_s=settings.hang_s
)
# BentoML imports this module in its arbiter too, before that takes over the signals.
watch_the_worker(settings.drain_s)


async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
    """Pass everything on to the application.

    Mounted as a function: of a Starlette application BentoML would ask which paths it knows, and
    answer the others itself, in another form.
    """
    await lifecycle(scope, receive, send)


@bentoml.service(
    name="ganymede",
    workers=1,
    # The engine's own deadline comes first and says more.
    traffic={"timeout": settings.deadline_s + 30},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    # It would make a span a request, sent or not. Those that are sent are of tracing.py.
    tracing={"excluded_urls": ".*"},
)
@bentoml.asgi_app(asgi, path="/")
class Ganymede:
    """Starts the engine beside the event loop, so that the process answers while models load."""

    def __init__(self) -> None:
        lifecycle.begin()
        # Not where the module is imported: the arbiter has nothing to trace.
        tracing.start()
        queue.start()
        threading.Thread(target=engine.start, name="ganymede-start", daemon=True).start()

    async def __is_alive__(self) -> bool:
        if lifecycle.hung is not None:
            problem = not_ready(lifecycle.hung)
            raise HTTPException(problem.status, problem.body(), problem.headers())
        return True

    async def __is_ready__(self) -> bool:
        if engine.state is not EngineState.READY:
            problem = not_ready(engine.reason or engine.state)
            raise HTTPException(problem.status, problem.body(), problem.headers())
        return True

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    async def stop_tracing(self) -> None:
        """Send what has not been sent. By now the accepted work has ended."""
        if (tracer := tracing.current()) is not None:
            await asyncio.to_thread(tracer.stop)
