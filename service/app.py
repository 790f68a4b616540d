"""The BentoML service: life cycle and packaging, and nothing else.

BentoML keeps `/livez` and `/readyz`; every other path is the FastAPI application's.
"""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING

# Usage tracking is for each operator to switch on, not off. Read when bentoml is imported.
os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
# One process serves, so its counters live in its memory. BentoML would keep them in a folder that
# all its servers on a machine share, and that each of them empties when it starts.
os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)

import bentoml
from starlette.types import Receive, Scope, Send

from service import logs
from service.host.circus_supervisor import supervise_worker
from service.host.uvicorn_connections import guard
from service.settings import load_settings

if TYPE_CHECKING:
    from service.worker import ServiceWorker

settings = load_settings()
# BentoML's arbiter imports this module too, so its lines have the same form.
logs.configure(settings.log_format)
# BentoML imports this module in its arbiter too, before that takes over the signals.
supervise_worker(settings.drain_s)


@cache
def serving() -> ServiceWorker:
    """Return what this process serves with.

    Imported and made here: the arbiter, which serves nothing, would keep the worker waiting for a
    second to import what only the worker needs.
    """
    from service.worker import ServiceWorker  # noqa: PLC0415

    return ServiceWorker(settings)


async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
    """Pass everything on to the application.

    Mounted as a function: of a Starlette application BentoML would ask which paths it knows, and
    answer the others itself, in another form.
    """
    await serving().lifecycle(scope, receive, send)


guard(settings, asgi)


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
    """The worker's side of BentoML's life cycle."""

    def __init__(self) -> None:
        # Not where the module is imported: the arbiter has nothing to start.
        serving().start()

    async def __is_alive__(self) -> bool:
        serving().assert_alive()
        return True

    async def __is_ready__(self) -> bool:
        serving().assert_ready()
        return True

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    async def stop_tracing(self) -> None:
        """Send the traces that have not been sent."""
        await serving().stop_tracing()
