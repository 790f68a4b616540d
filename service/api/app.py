"""The HTTP surface, put together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import RedirectResponse
from starlette.types import ASGIApp

from service import __version__
from service.api import metrics, state
from service.api.middleware import authentication, errors, limits
from service.api.middleware.access_log import Access
from service.api.middleware.fast_path import Express
from service.api.protocols import kserve, openai
from service.api.routes import (
    admin,
    generate,
    head_requests,
    image_to_image,
    interpolate,
    jobs,
    mix_styles,
    models,
)
from service.offline.queue import JobQueue
from service.runtime.scheduling.engine import Engine
from service.settings import Settings


def create_app(engine: Engine, settings: Settings, queue: JobQueue | None = None) -> FastAPI:
    """Return the application that answers for `engine`, and puts jobs into `queue`.

    Without one, which whoever starts the service starts too, no jobs are taken.
    """
    app = FastAPI(
        title="Ganymede",
        summary="Pictures from generative adversarial networks.",
        version=__version__,
    )

    service = state.install(app, engine, settings, queue or JobQueue(settings.jobs, engine))
    find, find_any, find_for = service.find_model, service.find_any_model, service.find_model

    def watched(inner: Callable[[], ASGIApp] = app.build_middleware_stack) -> ASGIApp:
        # Around all that Starlette builds: what it answers to an unforeseen error passes here too.
        return Access(inner(), log_requests=settings.log_requests)

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title=app.title, version=app.version, summary=app.summary, routes=app.routes
            )
            # The maximum is an operator's to set, so the schema states the one in force.
            schemas = document["components"]["schemas"]
            request = schemas["GenerateRequest"]["properties"]
            request["n"]["anyOf"][0]["maximum"] = settings.max_images
            request["seeds"]["anyOf"][0]["maxItems"] = settings.max_images
            for field in ("z", "w", "images"):
                request[field]["anyOf"][0]["maxItems"] = settings.max_images
            walk = schemas["InterpolateRequest"]["properties"]
            walk["frames"]["maximum"] = settings.max_frames
            request = schemas["MixStylesRequest"]["properties"]
            request["rows"]["maxItems"] = request["columns"]["maxItems"] = settings.max_images
            request = schemas["ImagesRequest"]["properties"]
            request["n"]["anyOf"][0]["maximum"] = settings.max_images
            limits.describe(document, settings)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
    app.build_middleware_stack = watched  # type: ignore[method-assign]
    handler = errors.error_handler(app)
    generating = generate.router(engine, settings, find)
    # From the inside to the outside: what comes last sees a request first.
    app.add_middleware(Express, routes=generate.express(generating), answer=handler)
    errors.install(app, handler)
    app.add_middleware(limits.BodyLimits, settings=settings)
    app.add_middleware(authentication.Keys, settings=settings)

    app.include_router(models.router(engine))
    app.include_router(generating)
    app.include_router(mix_styles.router(engine, settings, find))
    app.include_router(interpolate.router(engine, settings, find))
    app.include_router(openai.router(engine, settings, find))
    app.include_router(kserve.router(engine, settings, find_any))
    app.include_router(image_to_image.router(engine, settings, find, find_for))
    app.include_router(jobs.router(service.queue, settings, find))
    app.include_router(admin.router(engine))
    app.include_router(metrics.router(engine, settings))

    @head_requests.get(app, "/", include_in_schema=False)
    async def root() -> RedirectResponse:
        return RedirectResponse("/docs")

    return app
