"""The BentoML service: life cycle and packaging, and nothing else.

BentoML keeps `/livez` and `/readyz`; every other path is the FastAPI application's.
"""

from __future__ import annotations

import logging
import os
import threading

# Usage tracking is for each operator to switch on, not off. Read when bentoml is imported.
os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
# One process serves, so its counters live in its memory. BentoML would keep them in a folder that
# all its servers on a machine share, and that each of them empties when it starts.
os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)

import asyncio

import bentoml
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from service.api.application import create_app
from service.api.errors import not_ready
from service.api.metrics import SchedulerMetrics
from service.runtime.engine import Engine, EngineState
from service.settings import Settings

# Seconds that accepted work has to end at shutdown.
DRAIN_S = 20.0

settings = Settings()
engine = Engine(
    settings.models,
    provider=settings.provider,
    queue_pixels=settings.queue_pixels,
    observer=SchedulerMetrics(),
)
application = create_app(engine, settings)


async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
    """Pass everything on to the application.

    Mounted as a function: of a Starlette application BentoML would ask which paths it knows, and
    answer the others itself, in another form.
    """
    await application(scope, receive, send)


@bentoml.service(
    name="ganymede",
    workers=1,
    # The engine's own deadline comes first and says more.
    traffic={"timeout": settings.deadline_s + 30},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
)
@bentoml.asgi_app(asgi, path="/")
class Ganymede:
    """Starts the engine beside the event loop, so that the process answers while models load."""

    def __init__(self) -> None:
        logging.getLogger("ganymede").setLevel(logging.INFO)
        threading.Thread(target=engine.start, name="ganymede-start", daemon=True).start()

    async def __is_ready__(self) -> bool:
        if engine.state is not EngineState.READY:
            problem = not_ready(engine.reason or engine.state)
            raise HTTPException(problem.status, problem.body(), problem.headers())
        return True

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    async def drain(self) -> None:
        """Let the accepted work end. By now the server has seen to its open connections."""
        await asyncio.to_thread(engine.drain, DRAIN_S)
