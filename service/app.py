"""The BentoML service: life cycle and packaging. Nothing else imports BentoML.

BentoML responds to `/livez` and `/readyz`; the FastAPI application serves all other paths.
Workarounds for faults of the host are in `service.host`, one per file.

BentoML imports this module in all processes of a server: in the supervisor, which only starts and
replaces workers, and in each worker.
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
from service.host import bentoml_loggers, uvicorn_accept, uvicorn_protocol
from service.host.circus_supervisor import supervise_workers
from service.processes.choice_cache import ChoiceCache
from service.settings import load_settings

if TYPE_CHECKING:
    from service.worker import ServiceWorker

settings = load_settings()
logs.configure(settings.log_format)
bentoml_loggers.take_over(quiet=logs.on_terminal())
if settings.processes == "auto":
    workers = ChoiceCache(settings.models, settings.run_options).get()
else:
    workers = settings.processes
# The first worker finds out whether more pay, unless that is known.
supervise_workers(workers or 1, settings.drain_s, decided=workers > 0)


@cache
def worker() -> ServiceWorker:
    """Return the worker's part of the service, created at the first call.

    Imported lazily: it takes a second, and the supervisor does not need it.
    """
    from service.processes.joining import join_server  # noqa: PLC0415

    # First, because it decides where the metrics are kept that the import creates.
    folder, table = join_server()
    from service.worker import ServiceWorker  # noqa: PLC0415

    return ServiceWorker(settings, folder, table)


async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
    """Serve the requests that reach the application through BentoML.

    This is a function instead of a Starlette application, because BentoML would read the routes
    of such an application and respond to all other paths itself, in another format.
    """
    await worker().application(scope, receive, send)


uvicorn_protocol.install(settings, lambda: worker().application)
uvicorn_accept.install(lambda: worker().listener)


@bentoml.service(
    name="ganymede",
    workers=workers or 1,
    # Longer than the engine's own deadline, whose error is more informative.
    traffic={"timeout": settings.deadline_s + 30},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    # BentoML would create a span for each request, even if none is exported: see `service.tracing`.
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
    async def stop(self) -> None:
        """Close the gRPC port, and export the remaining spans."""
        await worker().stop()
