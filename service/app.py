"""The BentoML service: life cycle and packaging. Nothing else imports BentoML.

BentoML answers `/livez` and `/readyz`; every other path belongs to the FastAPI application. The
faults of the host that need a workaround are in `service.host`, one a file.

BentoML imports this module in two processes: in the supervisor, which only restarts the worker, and
in the worker.
"""

# ruff: noqa: E402 - BentoML reads its environment when it is imported
from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from service.host import bentoml_environment

bentoml_environment.prepare()

import bentoml
from starlette.types import Receive, Scope, Send

from service import logs
from service.host import bentoml_loggers, uvicorn_protocol
from service.host.circus_supervisor import supervise_worker
from service.settings import load_settings

if TYPE_CHECKING:
    from service.worker import ServiceWorker

settings = load_settings()
logs.configure(settings.log_format)
bentoml_loggers.take_over()
supervise_worker(settings.drain_s)


@cache
def worker() -> ServiceWorker:
    """Return the worker's part of the service, created at the first call.

    Importing it takes a second, which the supervisor is spared.
    """
    from service.worker import ServiceWorker  # noqa: PLC0415

    return ServiceWorker(settings)


async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
    """Serve what reaches the application through BentoML.

    A function, because BentoML asks a Starlette application for its routes and answers all other
    paths itself, in another format.
    """
    await worker().application(scope, receive, send)


uvicorn_protocol.install(settings, lambda: worker().application)


@bentoml.service(
    name="ganymede",
    workers=1,
    # Beyond the engine's own deadline, whose error says more.
    traffic={"timeout": settings.deadline_s + 30},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    # Otherwise it creates a span for each request, exported or not. `service.tracing` has our own.
    tracing={"excluded_urls": ".*"},
)
@bentoml.asgi_app(asgi, path="/")
class Ganymede:
    """The worker's side of BentoML's life cycle."""

    def __init__(self) -> None:
        worker().start()

    async def __is_alive__(self) -> bool:
        worker().assert_alive()
        return True

    async def __is_ready__(self) -> bool:
        worker().assert_ready()
        return True

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    async def stop_tracing(self) -> None:
        """Export the remaining spans."""
        await worker().stop_tracing()
