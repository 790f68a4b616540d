"""`POST /v1/generate`, and the address that every picture of a latent space has."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request
from fastapi.responses import Response

from service import __version__
from service.api import running
from service.api.errors import Problem, invalid
from service.api.negotiation import Form, negotiate
from service.api.schemas import GenerateRequest, GenerateResponse, ProblemDocument
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
_BY_EXTENSION = {
    "png": ImageFormat.PNG,
    "jpg": ImageFormat.JPEG,
    "jpeg": ImageFormat.JPEG,
    "webp": ImageFormat.WEBP,
}


def router(engine: Engine, settings: Settings, find: Any) -> APIRouter:
    """Return the routes; `find` gives the loaded model of a name."""
    routes = APIRouter(tags=["generate"])

    @routes.post(
        "/v1/generate",
        summary="Pictures from seeds",
        response_model=GenerateResponse,
        responses={
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
        },
    )
    async def generate(
        body: GenerateRequest, request: Request, accept: Annotated[str | None, Header()] = None
    ) -> Response:
        seeds = _seeds(body, settings.max_images)
        form = negotiate(body.format, accept, len(seeds))
        model: Model = find(body.model)
        return await running.generate(
            engine,
            request,
            model,
            seeds,
            settings.deadline_s,
            lambda pixels: _answer(model, seeds, pixels, form),
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
        model: Model = find(f"{name}@{version}" if version else name)
        headers = {
            "etag": _etag(model, seed, kind),
            # Which version a bare name means may change; what a version makes never does.
            "cache-control": "public, max-age=31536000, immutable"
            if version or "@" in name
            else "public, max-age=60",
        }
        if if_none_match and (if_none_match.strip() == "*" or headers["etag"] in if_none_match):
            return Response(status_code=304, headers=headers)
        response = await running.generate(
            engine,
            request,
            model,
            [seed],
            settings.deadline_s,
            lambda pixels: _answer(model, [seed], pixels, Form("image", kind)),
        )
        response.headers.update(headers)
        return response

    return routes


def _seeds(body: GenerateRequest, maximum: int) -> list[int]:
    if body.seeds is not None:
        if body.seed is not None:
            raise invalid("seeds", "give seed or seeds, not both")
        if body.n is not None and body.n != len(body.seeds):
            raise invalid("n", f"is {body.n}, and there are {len(body.seeds)} seeds")
        seeds = body.seeds
    else:
        n = body.n or 1
        if n > maximum:
            raise invalid("n", f"expected 1 to {maximum}, got {n}")
        first = secrets.randbelow(MAX_SEED - n + 2) if body.seed is None else body.seed
        if first + n - 1 > MAX_SEED:
            raise invalid("seed", f"seed + n - 1 is {first + n - 1}, beyond {MAX_SEED}")
        seeds = list(range(first, first + n))
    if len(seeds) > maximum:
        raise invalid("seeds", f"expected 1 to {maximum} seeds, got {len(seeds)}")
    return seeds


def _answer(model: Model, seeds: Sequence[int], pixels: Array, form: Form) -> Response:
    headers = {
        "x-ganymede-model": f"{model.manifest.name}@{model.manifest.version}",
        "x-ganymede-digest": model.digest,
        "x-ganymede-seed": ",".join(map(str, seeds)),
    }
    if form.container == "npy":
        return Response(images.encode_npy(pixels), 200, headers, "application/x-npy")
    files = [
        images.encode(picture, form.image, _provenance(model, seed))
        for seed, picture in zip(seeds, pixels, strict=True)
    ]
    if form.container == "image":
        return Response(files[0], 200, headers, form.image.media_type)
    if form.container == "zip":
        width = len(str(len(files) - 1))
        names = [f"{i:0{width}}-seed-{seed}.{form.image.extension}" for i, seed in enumerate(seeds)]
        archive = images.pack_zip(list(zip(names, files, strict=True)))
        return Response(archive, 200, headers, "application/zip")
    document = {
        "model": model.manifest.name,
        "version": model.manifest.version,
        "digest": model.digest,
        "images": [
            {
                "seed": seed,
                "media_type": form.image.media_type,
                "data": base64.b64encode(file).decode(),
            }
            for seed, file in zip(seeds, files, strict=True)
        ],
    }
    return Response(json.dumps(document), 200, headers, "application/json")


def _provenance(model: Model, seed: int) -> dict[str, Any]:
    return {
        "model": model.manifest.name,
        "version": model.manifest.version,
        "digest": model.digest,
        "seed": seed,
    }


def _etag(model: Model, seed: int, kind: ImageFormat) -> str:
    # All that the file's bytes depend on: with the pixels, what the file says of itself, and how
    # this version of Ganymede encodes it.
    made = [__version__, model.manifest.name, model.manifest.version, model.digest]
    parameters = json.dumps([*made, seed, kind])
    return f'"{hashlib.sha256(parameters.encode()).hexdigest()[:32]}"'
