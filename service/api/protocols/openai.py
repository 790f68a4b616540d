"""`POST /v1/images/generations`: OpenAI's shape, so that its SDK works unchanged.

There are no captions here yet. A prompt picks the class of a class-conditional model; for the other
models any text is a seed, and the same text always the same pictures.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from service.api import request_parsing, responses
from service.api.execution import request_execution
from service.api.problems import invalid
from service.api.schemas import GenerateRequest, Seed, TruncationField
from service.runtime.images import encoding
from service.runtime.images.encoding import ImageFormat
from service.runtime.latent.seeds import MAX_SEED
from service.runtime.latent.sources import LatentSource
from service.runtime.models.model import Model
from service.runtime.scheduling.batches import Rows
from service.runtime.scheduling.engine import Engine
from service.runtime.scheduling.scheduler import JobTooLarge
from service.settings import Settings

# OpenAI's own bound.
_MOST_CHARACTERS = 32_000
_MOST_CLASSES_SHOWN = 100
_IGNORED = "Accepted as OpenAI's API accepts it, and without effect."


class ImagesRequest(BaseModel):
    """What `client.images.generate` sends; `seed` and `truncation` go by its `extra_body`."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"model": "cgan-fashion", "prompt": "sneaker", "n": 2}]},
    )

    model: str = Field(description="`name`, or `name@version`.")
    prompt: str = Field(
        min_length=1,
        max_length=_MOST_CHARACTERS,
        description="A class, by name in any case or by index, of a class-conditional model. Of "
        "the others a seed: decimal digits are that seed, and any other text always stands for "
        "the same.",
    )
    n: int | None = Field(default=None, ge=1, description="How many pictures; 1 when not said.")
    size: str | None = Field(
        default=None, description="`auto`, or the model's own size as WIDTHxHEIGHT."
    )
    response_format: Literal["b64_json", "url"] | None = Field(
        default=None,
        description="b64_json when not said. url gives each picture's own address, which makes "
        "it when it is asked for; nothing is stored.",
    )
    output_format: Literal["png", "jpeg", "webp"] | None = None
    seed: Seed | None = Field(
        default=None,
        description="Ours. Picture i has seed + i modulo 2³². When not said: by the prompt, or at "
        "random for a class-conditional model.",
    )
    truncation: TruncationField | None = Field(
        default=None, description="Ours: as of `/v1/generate`."
    )
    stream: Literal[False] | None = Field(default=None, description="There are no streams.")
    partial_images: Annotated[int, Field(ge=0, le=3)] | None = Field(
        default=None, description=_IGNORED
    )
    background: str | None = Field(default=None, description=_IGNORED)
    complexity: str | None = Field(default=None, description=_IGNORED)
    moderation: str | None = Field(default=None, description=_IGNORED)
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = Field(
        default=None, description=_IGNORED
    )
    quality: str | None = Field(default=None, description=_IGNORED)
    safety_identifier: str | None = Field(default=None, description=_IGNORED)
    style: str | None = Field(default=None, description=_IGNORED)
    user: str | None = Field(default=None, description=_IGNORED)


class OpenAIImage(BaseModel):
    """One picture, with what makes it again."""

    b64_json: str | None = None
    url: str | None = None
    revised_prompt: str | None = Field(
        default=None, description="The class that the prompt was read as."
    )
    seed: int
    class_: str | None = Field(default=None, alias="class")
    truncation: float | None = None


class ImagesResponse(BaseModel):
    """Pictures in the order of their seeds."""

    created: int
    output_format: str
    size: str
    model: str
    version: str
    digest: str
    data: list[OpenAIImage]


class OpenAIError(BaseModel):
    """What went wrong, as OpenAI says it."""

    message: str
    type: str
    param: str | None
    code: str


class OpenAIErrorBody(BaseModel):
    """The body of an answer that is an error."""

    error: OpenAIError


_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": OpenAIErrorBody, "description": text}
    for status, text in {
        400: "The request cannot be used",
        404: "No such model",
        429: "The queue is full: see Retry-After",
        503: "Not ready: see Retry-After",
        504: "The deadline passed",
    }.items()
}


def router(engine: Engine, settings: Settings, find: Callable[[str], Model]) -> APIRouter:
    """Return the route; `find` gives the loaded model of a name."""
    routes = APIRouter(tags=["generate"])

    @routes.post(
        "/v1/images/generations",
        summary="Pictures, for OpenAI's SDK",
        response_model=ImagesResponse,
        responses=_ERRORS,
    )
    async def generations(body: ImagesRequest, request: Request) -> Response:
        model = find(body.model)
        _assert_own_size(body.size, model)
        sources = _sources(body, model, settings.max_images)
        kind = ImageFormat(body.output_format or ImageFormat.PNG)
        if body.response_format == "url":
            # Checked, and not made: its address makes a picture when it is asked for.
            urls = _urls(request, model, sources, kind)
            return _answer(model, sources, kind, [{"url": url} for url in urls])

        identity = responses.identity(model)

        def encode(outputs: Rows) -> Response:
            files = [
                encoding.encode(pixels, kind, identity | source.parameters(model.manifest))
                for source, pixels in zip(sources, outputs["pixels"], strict=True)
            ]
            contents = [{"b64_json": base64.b64encode(file).decode()} for file in files]
            return _answer(model, sources, kind, contents)

        async with request_execution(engine, request, settings.deadline_s) as run:
            try:
                return await run.pictures(model, sources, encode)
            except JobTooLarge as error:
                message = f"the request is larger than the queue: {error}"
                raise invalid("n", message) from error

    return routes


def read_prompt(prompt: str, model: Model) -> tuple[int | None, int | None]:
    """Return what a prompt says to `model`: a class index, or a seed.

    A class-conditional model knows its classes by name, in any case, and by index in decimal, a
    name going before an index. To the other models decimal digits up to 2³² - 1 are a seed, and any
    other text stands for the first four bytes of its SHA-256, in UTF-8 and big-endian. Raises
    Problem for what is no class.
    """
    text = prompt.strip()
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(MAX_SEED))
    names = model.manifest.classes
    if not names:
        if is_number and int(text) <= MAX_SEED:
            return None, int(text)
        return None, int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:4])
    if text in names:
        return names.index(text), None
    folded = [name.casefold() for name in names]
    if text.casefold() in folded:
        return folded.index(text.casefold()), None
    if is_number and int(text) < len(names):
        return int(text), None
    shown = ", ".join(names[:_MOST_CLASSES_SHOWN])
    if (more := len(names) - _MOST_CLASSES_SHOWN) > 0:
        shown += f", and {more} more in /v1/models/{model.manifest.name}"
    raise invalid(
        "prompt", f"expected a class, by name or index, got {text[:50]!r}; there are: {shown}"
    )


def _sources(body: ImagesRequest, model: Model, maximum: int) -> list[LatentSource]:
    count = body.n or 1
    if count > maximum:
        raise invalid("n", f"expected 1 to {maximum}, got {count}")
    class_index, first = read_prompt(body.prompt, model)
    if body.seed is not None:
        first = body.seed
    elif first is None:
        first = secrets.randbelow(MAX_SEED + 1)
    wanted = {
        "model": body.model,
        "seeds": [(first + i) % (MAX_SEED + 1) for i in range(count)],
        "class": class_index,
        "truncation": body.truncation,
    }
    return request_parsing.to_generate(GenerateRequest.model_validate(wanted), model, maximum)


def _assert_own_size(size: str | None, model: Model) -> None:
    own = _size(model)
    if size not in (None, "auto", own):
        name = model.manifest.name
        raise invalid("size", f"{name} makes pictures of {own}; expected that, or auto")


def _size(model: Model) -> str:
    image = model.manifest.image
    return f"{image.width}x{image.height}"


def _urls(
    request: Request, model: Model, sources: Sequence[LatentSource], kind: ImageFormat
) -> list[str]:
    """Return the absolute addresses of the pictures, at the host that the request was sent to."""
    urls = []
    for source in sources:
        named = {"name": model.manifest.name, "seed": source.seed, "extension": kind.extension}
        path = request.app.url_path_for("image", **named)
        query = source.parameters(model.manifest) | {"version": model.manifest.version}
        del query["seed"]
        urls.append(f"{path.make_absolute_url(request.base_url)}?{urlencode(query)}")
    return urls


def _answer(
    model: Model,
    sources: Sequence[LatentSource],
    kind: ImageFormat,
    contents: Sequence[dict[str, str]],
) -> Response:
    data = []
    for source, content in zip(sources, contents, strict=True):
        parameters = source.parameters(model.manifest)
        if "class" in parameters:
            content["revised_prompt"] = parameters["class"]
        data.append(content | parameters)
    document = {
        "created": int(time.time()),
        "output_format": kind,
        "size": _size(model),
        **responses.identity(model),
        "data": data,
    }
    return Response(json.dumps(document), media_type="application/json")
