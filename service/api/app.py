"""Builds the FastAPI application.

A request passes through these ASGI applications, from the outside to the inside:

1. `cross_origin`, if the operator names origins: preflights, and headers for pages of these.
2. `service.host.bentoml_mount.MountBypass`: probes go to BentoML, other requests bypass it.
3. uvicorn's `ProxyHeadersMiddleware`: client address and scheme as a trusted proxy reports them.
4. `service.host.shutdown.GracefulShutdown`: tracks requests without a response, for a clean stop.
5. `_Application`, a `FastAPI`, which only enters the stack below.
6. `AccessLog`: id, log line, metrics, span; a 500 for unhandled errors.
7. `Authentication`: API keys, rate limits.
8. `BodyLimits`: size and time of the body, parts and nesting depth of JSON.
9. `FastPath`: validates large JSON bodies in a thread, and calls the route function of a complete,
   valid request to a frequent route.
10. For everything else: Starlette's `ExceptionMiddleware`, FastAPI's exit stack and the router.

The stack is built here, because FastAPI's own stack starts with three more middlewares (server
errors, telemetry, a body limit) that repeat what 6 and 8 do.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from fastapi.openapi.utils import get_openapi
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from service import __version__
from service.api import state
from service.api.image_forms import request_schemas
from service.api.middleware import limits
from service.api.middleware.access_log import AccessLog
from service.api.middleware.authentication import Authentication
from service.api.middleware.errors import ERROR_HANDLERS
from service.api.middleware.fast_path import FastPath, json_routes
from service.api.middleware.limits import BodyLimits
from service.api.protocols import automatic1111
from service.api.protocols.kserve import http as kserve
from service.api.protocols.openai import edits, generations, variations
from service.api.rate_limits import RateLimiter
from service.api.routes import (
    admin,
    audio,
    generate,
    image_to_image,
    images,
    job_events,
    job_uploads,
    jobs,
    metrics,
    models,
    pages,
    sample_classes,
)
from service.api.routes.latent import edit, interpolate, invert, mix_styles
from service.api.routes.text import text_to_image, texts
from service.api.state import SharedState
from service.offline.queue.runner import JobQueue
from service.runtime.scheduling.engine import Engine
from service.settings import Settings


def create_app(
    engine: Engine,
    settings: Settings,
    queue: JobQueue | None = None,
    shared: SharedState | None = None,
) -> FastAPI:
    """Build the application that serves `engine` and submits jobs to `queue`.

    Without `queue`, a queue is created but never started, so no job runs. `shared` is the state of
    a server with several processes.
    """
    shared = shared or SharedState()
    app = _Application(
        title="Ganymede",
        summary="Images from generative adversarial networks.",
        version=__version__,
        # FastAPI's own pages load scripts from another host: see `routes.pages`.
        docs_url=None,
        redoc_url=None,
    )

    state.install(app, engine, settings, queue or state.create_queue(engine, settings), shared)

    app.include_router(models.router)
    app.include_router(generate.router)
    app.include_router(sample_classes.router)
    app.include_router(audio.router)
    app.include_router(text_to_image.router)
    app.include_router(texts.router)
    app.include_router(images.router)
    app.include_router(mix_styles.router)
    app.include_router(interpolate.router)
    app.include_router(edit.router)
    app.include_router(invert.router)
    app.include_router(image_to_image.router)
    app.include_router(generations.router)
    app.include_router(edits.router)
    app.include_router(variations.router)
    app.include_router(kserve.router)
    app.include_router(automatic1111.router)
    if settings.grpc_port is not None:
        # Imported here: its libraries are optional.
        from service.api.protocols.kserve import grpc as kserve_grpc  # noqa: PLC0415

        app.include_router(kserve_grpc.router)
    app.include_router(job_uploads.router)
    app.include_router(jobs.router)
    app.include_router(job_events.router)
    app.include_router(admin.router)
    app.include_router(metrics.router)
    app.include_router(pages.router)

    def build_middleware_stack() -> ASGIApp:
        stack: ASGIApp = AsyncExitStackMiddleware(app.router)
        stack = ExceptionMiddleware(stack, handlers=ERROR_HANDLERS)
        frequent = (generate.router, sample_classes.router)
        others = (
            audio.router,
            text_to_image.router,
            texts.router,
            mix_styles.router,
            interpolate.router,
            edit.router,
            generations.router,
            jobs.router,
            automatic1111.router,
        )
        stack = FastPath(stack, json_routes(*frequent, *others), frequent)
        stack = BodyLimits(stack, settings)
        stack = Authentication(stack, settings, RateLimiter(shared.buckets))
        return AccessLog(stack, log_requests=settings.log_requests)

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _openapi_document(app, settings)
        return app.openapi_schema

    app.build_middleware_stack = build_middleware_stack  # type: ignore[method-assign]
    app.openapi = openapi  # type: ignore[method-assign]
    return app


class _Application(FastAPI):
    """FastAPI that passes requests to the middleware stack without looking for telemetry.

    It would read the environment for each request; `service.tracing` reads it once.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] == "lifespan" or self.middleware_stack is None:
            await super().__call__(scope, receive, send)
            return
        scope["app"] = self
        await self.middleware_stack(scope, receive, send)


def _openapi_document(app: FastAPI, settings: Settings) -> dict[str, Any]:
    """Return the OpenAPI document, with the configured limits."""
    document = get_openapi(
        title=app.title, version=app.version, summary=app.summary, routes=app.routes
    )
    schemas = document["components"]["schemas"]
    schemas |= request_schemas()
    for request in ("GenerateRequest", "EditRequest"):
        fields = schemas[request]["properties"]
        fields["n"]["anyOf"][0]["maximum"] = settings.max_images
        for name in ("seeds", "z", "w", "images"):
            fields[name]["anyOf"][0]["maxItems"] = settings.max_images
    fields = schemas["AudioRequest"]["properties"]
    fields["n"]["anyOf"][0]["maximum"] = settings.max_images
    for name in ("seeds", "z"):
        fields[name]["anyOf"][0]["maxItems"] = settings.max_images
    for request in ("TextRequest", "TextToImageRequest"):
        fields = schemas[request]["properties"]
        fields["n"]["anyOf"][0]["maximum"] = settings.max_images
        fields["seeds"]["anyOf"][0]["maxItems"] = settings.max_images
    fields = schemas["InterpolateRequest"]["properties"]
    fields["frames"]["maximum"] = settings.max_frames
    fields = schemas["MixStylesRequest"]["properties"]
    fields["rows"]["maxItems"] = fields["columns"]["maxItems"] = settings.max_images
    fields = schemas["ImagesRequest"]["properties"]
    fields["n"]["anyOf"][0]["maximum"] = settings.max_images
    limits.describe(document, settings)
    return document
