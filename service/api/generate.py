"""`POST /v1/generate`, and the address that every picture of a latent space has."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request
from fastapi.responses import Response

from service import __version__
from service.api import running, wishes
from service.api.errors import Problem
from service.api.negotiation import Form, negotiate
from service.api.schemas import (
    GenerateRequest,
    GenerateResponse,
    ProblemDocument,
    SampleClassesRequest,
)
from service.api.wishes import Wish
from service.runtime import images
from service.runtime.engine import Engine
from service.runtime.images import ImageFormat
from service.runtime.latents import MAX_SEED
from service.runtime.model import Model
from service.runtime.scheduler import Array
from service.settings import Settings

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": ProblemDocument, "description": text}
    for status, text in {
        404: "No such model",
        422: "A field cannot be used",
        429: "The queue is full: see Retry-After",
        503: "Not ready: see Retry-After",
        504: "The deadline passed",
    }.items()
}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {
            "image/png": _BINARY,
            "image/jpeg": _BINARY,
            "image/webp": _BINARY,
            "application/zip": _BINARY,
            "application/x-npy": _BINARY,
        }
    },
    **_PROBLEMS,
}
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
        responses=_ANSWERS,
    )
    async def generate(
        body: GenerateRequest, request: Request, accept: Annotated[str | None, Header()] = None
    ) -> Response:
        model = find(body.model)
        wish = wishes.to_generate(body, model, settings.max_images)
        form = negotiate(body.format, accept, len(wish.seeds))
        return await answer(request, model, wish, form)

    @routes.post(
        "/v1/sample-classes",
        summary="Pictures by class",
        response_model=GenerateResponse,
        responses=_ANSWERS,
    )
    async def sample_classes(
        body: SampleClassesRequest, request: Request, accept: Annotated[str | None, Header()] = None
    ) -> Response:
        model = find(body.model)
        wish = wishes.to_sample_classes(body, model, settings.max_images)
        form = negotiate(body.format, accept, len(wish.seeds))
        return await answer(request, model, wish, form, by_class=True)

    async def answer(
        request: Request, model: Model, wish: Wish, form: Form, *, by_class: bool = False
    ) -> Response:
        def encode(pixels: Array) -> Response:
            return _answer(model, wish, pixels, form, by_class=by_class)

        return await running.generate(
            engine, request, model, wish.seeds, wish.classes, settings.deadline_s, encode
        )

    @routes.get(
        "/v1/models/{name}/images/{seed}.{extension}",
        summary="The picture of one seed, at an address of its own",
        response_class=Response,
        responses={
            200: {"content": {"image/png": _BINARY, "image/jpeg": _BINARY, "image/webp": _BINARY}},
            304: {"description": "As it was"},
            **_PROBLEMS,
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
        wish = wishes.to_one(model, seed, class_)
        headers = {
            "etag": _etag(model, wish, kind),
            # Which version a bare name means may change; what a version makes never does.
            "cache-control": "public, max-age=31536000, immutable"
            if version or "@" in name
            else "public, max-age=60",
        }
        if if_none_match and (if_none_match.strip() == "*" or headers["etag"] in if_none_match):
            return Response(status_code=304, headers=headers)
        response = await answer(request, model, wish, Form("image", kind))
        response.headers.update(headers)
        return response

    return routes


def _answer(
    model: Model, wish: Wish, pixels: Array, form: Form, *, by_class: bool = False
) -> Response:
    headers = {
        "x-ganymede-model": f"{model.manifest.name}@{model.manifest.version}",
        "x-ganymede-digest": model.digest,
        "x-ganymede-seed": ",".join(map(str, wish.seeds)),
    }
    if wish.classes is not None:
        headers["x-ganymede-class"] = ",".join(map(str, wish.classes))
    if form.container == "npy":
        return Response(images.encode_npy(pixels), 200, headers, "application/x-npy")
    pictures = [_parameters(model, wish, i) for i in range(len(pixels))]
    files = [
        images.encode(each, form.image, _identity(model) | parameters)
        for parameters, each in zip(pictures, pixels, strict=True)
    ]
    if form.container == "image":
        return Response(files[0], 200, headers, form.image.media_type)
    if form.container == "zip":
        width = len(str(len(files) - 1))
        names = [
            (_folder(picture["class"]) if by_class else "")
            + f"{i:0{width}}-seed-{picture['seed']}.{form.image.extension}"
            for i, picture in enumerate(pictures)
        ]
        archive = images.pack_zip(list(zip(names, files, strict=True)))
        return Response(archive, 200, headers, "application/zip")
    document = _identity(model) | {
        "images": [
            parameters
            | {"media_type": form.image.media_type, "data": base64.b64encode(file).decode()}
            for parameters, file in zip(pictures, files, strict=True)
        ],
    }
    return Response(json.dumps(document), 200, headers, "application/json")


def _folder(class_name: str) -> str:
    """Return a folder's name for a class, whatever the class is called."""
    return re.sub(r"[^\w.-]+", "-", class_name).lstrip(".") + "/"


def _identity(model: Model) -> dict[str, Any]:
    return {
        "model": model.manifest.name,
        "version": model.manifest.version,
        "digest": model.digest,
    }


def _parameters(model: Model, wish: Wish, i: int) -> dict[str, Any]:
    """What makes picture `i` again, beside the model."""
    parameters: dict[str, Any] = {"seed": wish.seeds[i]}
    if wish.classes is not None:
        parameters["class"] = model.manifest.classes[wish.classes[i]]
    return parameters


def _etag(model: Model, wish: Wish, kind: ImageFormat) -> str:
    # All that the file's bytes depend on: with the pixels, what the file says of itself, and how
    # this version of Ganymede encodes it.
    made = [__version__, _identity(model), _parameters(model, wish, 0), kind]
    return f'"{hashlib.sha256(json.dumps(made).encode()).hexdigest()[:32]}"'
