"""`POST /v1/generate`, and the address that every picture of a latent space has."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Request
from fastapi.responses import Response

from service import __version__
from service.api import answers, wishes
from service.api.answers import Picture
from service.api.errors import Problem
from service.api.negotiation import Form, negotiate
from service.api.running import running
from service.api.schemas import GenerateRequest, GenerateResponse, SampleClassesRequest
from service.api.wishes import Wish
from service.runtime.engine import Engine
from service.runtime.images import ImageFormat
from service.runtime.latents import MAX_SEED
from service.runtime.manifest import GENERATOR
from service.runtime.model import Model
from service.runtime.scheduler import Rows
from service.settings import Settings

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
        responses=answers.ANSWERS,
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
        responses=answers.ANSWERS,
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
        pictures = _pictures(model, wish, by_class=by_class)
        said = answers.headers(
            model,
            seed=wish.seeds,
            **{"class": wish.classes},
            truncation=wish.truncations,
        )

        def encode(outputs: Rows) -> Response:
            return answers.answer(model, pictures, outputs["pixels"], form, said)

        async with running(engine, request, settings.deadline_s) as run:
            feeds = model.feeds(wish.seeds, wish.classes, wish.truncations)
            return await run.through(model, GENERATOR, feeds, encode)

    @routes.get(
        "/v1/models/{name}/images/{seed}.{extension}",
        summary="The picture of one seed, at an address of its own",
        response_class=Response,
        responses={
            200: {"content": answers.IMAGE_CONTENT},
            304: {"description": "As it was"},
            **answers.PROBLEMS,
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
        wish = wishes.to_one(model, seed, class_, truncation)
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


def _pictures(model: Model, wish: Wish, *, by_class: bool) -> list[Picture]:
    pictures = []
    for i, seed in enumerate(wish.seeds):
        parameters: dict[str, object] = {"seed": seed}
        folder = ""
        if wish.classes is not None:
            parameters["class"] = name = model.manifest.classes[wish.classes[i]]
            folder = _folder(name) if by_class else ""
        if wish.truncations is not None:
            parameters["truncation"] = wish.truncations[i]
        pictures.append(Picture(parameters, f"seed-{seed}", folder))
    return pictures


def _folder(class_name: str) -> str:
    """Return a folder's name for a class, whatever the class is called."""
    return re.sub(r"[^\w.-]+", "-", class_name).lstrip(".") + "/"


def _etag(model: Model, wish: Wish, kind: ImageFormat) -> str:
    # All that the file's bytes depend on: with the pixels, what the file says of itself, and how
    # this version of Ganymede encodes it.
    (picture,) = _pictures(model, wish, by_class=False)
    made = [__version__, answers.identity(model), picture.parameters, kind]
    return f'"{hashlib.sha256(json.dumps(made).encode()).hexdigest()[:32]}"'
