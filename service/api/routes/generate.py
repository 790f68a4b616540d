"""`POST /v1/generate`, and the address that every picture of a latent space has."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import BaseModel

from service import __version__
from service.api import request_parsing, responses
from service.api.execution import request_execution
from service.api.negotiation import Form, accepted, negotiate
from service.api.problems import Problem, invalid
from service.api.responses import Picture
from service.api.routes import head_requests
from service.api.schemas import GenerateRequest, GenerateResponse, SampleClassesRequest
from service.runtime.images.encoding import ImageFormat
from service.runtime.latent.seeds import MAX_SEED
from service.runtime.latent.sources import ClassWeights, LatentSource, encode_floats, feeds
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import Array
from service.runtime.scheduling.engine import Engine
from service.settings import Settings

# What EXIF in a JPEG holds is 64 KiB with all else that it says.
_JPEG_ROOM = 60_000
_BY_EXTENSION = {
    "png": ImageFormat.PNG,
    "jpg": ImageFormat.JPEG,
    "jpeg": ImageFormat.JPEG,
    "webp": ImageFormat.WEBP,
}


def router(engine: Engine, settings: Settings, find: Callable[[str], Model]) -> APIRouter:
    """Return the routes; `find` gives the loaded model of a name."""
    routes = APIRouter(tags=["generate"])

    @routes.post(
        "/v1/generate",
        summary="Pictures from seeds",
        response_model=GenerateResponse,
        responses=responses.ANSWERS,
    )
    async def generate(body: GenerateRequest, request: Request) -> Response:
        model = find(body.model)
        sources = request_parsing.to_generate(body, model, settings.max_images)
        form = negotiate(body.format, accepted(request), len(sources))
        return await answer(request, model, sources, form, returned=_returned(body, model, form))

    @routes.post(
        "/v1/sample-classes",
        summary="Pictures by class",
        response_model=GenerateResponse,
        responses=responses.ANSWERS,
    )
    async def sample_classes(body: SampleClassesRequest, request: Request) -> Response:
        model = find(body.model)
        sources = request_parsing.to_sample_classes(body, model, settings.max_images)
        form = negotiate(body.format, accepted(request), len(sources))
        return await answer(request, model, sources, form, by_class=True)

    async def answer(
        request: Request,
        model: Model,
        sources: Sequence[LatentSource],
        form: Form,
        *,
        by_class: bool = False,
        returned: Sequence[str] = (),
    ) -> Response:
        _assert_that_files_say_it(sources, form)
        pictures = [_picture(model, source, by_class=by_class) for source in sources]
        said = responses.of_sources(model, sources)
        async with request_execution(engine, request, settings.deadline_s) as run:
            beside: dict[str, Array] = {}
            if "z" in returned:
                beside["z"] = feeds(sources, model.manifest)["z"]
            if "w" in returned:
                beside["w"] = await run.styles(model, sources)
                sources = [
                    LatentSource(w=w, transform=source.transform)
                    for w, source in zip(beside["w"], sources, strict=True)
                ]
            shown = [
                replace(picture, beside={name: values[i] for name, values in beside.items()})
                for i, picture in enumerate(pictures)
            ]
            return await run.pictures(
                model,
                sources,
                lambda outputs: responses.answer(model, shown, outputs["pixels"], form, said),
            )

    @head_requests.get(
        routes,
        "/v1/models/{name}/images/{seed}.{extension}",
        summary="The picture of one seed, at an address of its own",
        response_class=Response,
        responses={
            200: {"content": responses.IMAGE_CONTENT},
            304: {"description": "As it was"},
            **responses.PROBLEMS,
        },
    )
    async def image(
        request: Request,
        name: str,
        seed: Annotated[int, Path(ge=0, le=MAX_SEED)],
        extension: str,
        version: Annotated[str | None, Query()] = None,
        class_: Annotated[str | None, Query(alias="class", description="A name or an index.")] = (
            None
        ),
        truncation: Annotated[float | None, Query(allow_inf_nan=False)] = None,
        if_none_match: Annotated[str | None, Header()] = None,
    ) -> Response:
        if (kind := _BY_EXTENSION.get(extension)) is None:
            known = ", ".join(_BY_EXTENSION)
            raise Problem(
                404,
                "format-not-found",
                "There is no such format",
                f"no pictures end in .{extension}; there are: {known}",
            )
        model = find(f"{name}@{version}" if version else name)
        source = request_parsing.to_one(model, seed, class_, truncation)
        headers = {
            "etag": _etag(model, source, kind),
            # Which version a bare name means may change; what a version makes never does.
            "cache-control": "public, max-age=31536000, immutable"
            if version or "@" in name
            else "public, max-age=60",
        }
        if if_none_match and (if_none_match.strip() == "*" or headers["etag"] in if_none_match):
            return Response(status_code=304, headers=headers)
        response = await answer(request, model, [source], Form("image", kind))
        response.headers.update(headers)
        return response

    return routes


def fast_path_routes(routes: APIRouter) -> list[tuple[APIRoute, type[BaseModel]]]:
    """Return the routes that the fast path may serve, each with its request model."""
    bodies: dict[str, type[BaseModel]] = {
        "/v1/generate": GenerateRequest,
        "/v1/sample-classes": SampleClassesRequest,
    }
    return [
        (route, bodies[route.path])
        for route in routes.routes
        if isinstance(route, APIRoute) and route.path in bodies
    ]


def _returned(body: GenerateRequest, model: Model, form: Form) -> Sequence[str]:
    """Return what is to come back beside the pictures. Raises Problem (422)."""
    wanted = body.return_
    if wanted and form.container not in ("json", "zip"):
        raise invalid("return", "goes with the formats json and zip")
    if "z" in wanted and (body.w or any(each.w is not None for each in body.images or [])):
        raise invalid("return", "a w has no z")
    if "w" in wanted and model.manifest.styles is None:
        raise invalid("return", f"{model.manifest.name} has no styles, so there is no w")
    return wanted


def _assert_that_files_say_it(sources: Sequence[LatentSource], form: Form) -> None:
    """Raise Problem (422) where a JPEG has no room for the styles that made it."""
    if form.image is not ImageFormat.JPEG or form.container == "npy":
        return
    if any(len(encode_floats(s.w)) > _JPEG_ROOM for s in sources if s.w is not None):
        raise invalid("format", "a JPEG has no room for the w that it is made of; take png or webp")


def _picture(model: Model, source: LatentSource, *, by_class: bool) -> Picture:
    classes = source.classes if by_class else None
    return Picture(
        source.parameters(model.manifest),
        source.name,
        _folder(classes, model.manifest.classes) if classes else "",
    )


def _folder(classes: ClassWeights, names: Sequence[str]) -> str:
    """Return a folder's name for a class or a blend, whatever the classes are called."""
    if len(classes) == 1:
        text = names[next(iter(classes))]
    else:
        text = "_".join(f"{names[index]}-{weight:.3g}" for index, weight in classes.items())
    return (re.sub(r"[^\w.-]+", "-", text).lstrip(".") or "-") + "/"


def _etag(model: Model, source: LatentSource, kind: ImageFormat) -> str:
    # All that the file's bytes depend on: with the pixels, what the file says of itself, and how
    # this version of Ganymede encodes it.
    parameters = source.parameters(model.manifest)
    made = [__version__, responses.identity(model), parameters, kind]
    return f'"{hashlib.sha256(json.dumps(made).encode()).hexdigest()[:32]}"'
