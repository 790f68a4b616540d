"""`POST /v1/images/generations`: OpenAI's image API, so that its SDK works unchanged.

Prompts are not captions. For a class-conditional model, a prompt names the class; for other models,
it determines the seed, so that the same text always gives the same images.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from collections.abc import Sequence
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from service.api import responses
from service.api.execution import request_execution
from service.api.negotiation import OutputFormat, with_credentials
from service.api.problems import INVALID_REQUEST, invalid
from service.api.responses import ImageRecord
from service.api.schemas.fields import CredentialField, RequestModel, Seed, TruncationField
from service.api.state import state_of
from service.runtime import requests
from service.runtime.generation import image_plan
from service.runtime.images.encoding import ImageFormat, Pixels
from service.runtime.latent.seeds import MAX_SEED
from service.runtime.latent.sources import LatentSource
from service.runtime.models.model import Model
from service.runtime.scheduling.errors import JobTooLarge

# The limit of OpenAI's API.
_MAX_PROMPT_LENGTH = 32_000
_MAX_CLASSES_LISTED = 100
_IGNORED = "Accepted for compatibility with OpenAI's API; has no effect."


class ImagesRequest(RequestModel):
    """The body that `client.images.generate` sends; `seed` and `truncation` go in `extra_body`."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"model": "cgan-fashion", "prompt": "sneaker", "n": 2}]},
    )

    model: str = Field(description="`name`, or `name@version`.")
    prompt: str = Field(
        min_length=1,
        max_length=_MAX_PROMPT_LENGTH,
        description="For a class-conditional model: a class, by name (case-insensitive) or by "
        "index. For other models: a seed. Decimal digits are the seed itself; other text is hashed "
        "to a seed.",
    )
    n: int | None = Field(default=None, ge=1, description="Number of images; default: 1.")
    size: str | None = Field(
        default=None, description="`auto`, or the model's image size as WIDTHxHEIGHT."
    )
    response_format: Literal["b64_json", "url"] | None = Field(
        default=None,
        description="Default: b64_json. With url, the response has the URL of each image, which is "
        "generated when the URL is requested; nothing is stored.",
    )
    output_format: Literal["png", "jpeg", "webp"] | None = None
    seed: Seed | None = Field(
        default=None,
        description="Extension. Image i has the seed `seed + i` modulo 2³². Default: derived from "
        "the prompt, or random for a class-conditional model.",
    )
    truncation: TruncationField | None = Field(
        default=None, description="Extension, as in `/v1/generate`."
    )
    c2pa: CredentialField = Field(default=None, description="Extension, as in `/v1/generate`.")
    stream: Literal[False] | None = Field(default=None, description="Streaming is not supported.")
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
    """One image, with the parameters that reproduce it."""

    b64_json: str | None = None
    url: str | None = None
    revised_prompt: str | None = Field(default=None, description="The class that the prompt names.")
    seed: int
    class_: str | None = Field(default=None, alias="class")
    truncation: float | None = None


class ImagesResponse(BaseModel):
    """Images in the order of their seeds."""

    created: int
    output_format: str
    size: str
    model: str
    version: str
    digest: str
    data: list[OpenAIImage]


class OpenAIError(BaseModel):
    """An error in the format of OpenAI's API."""

    message: str
    type: str
    param: str | None
    code: str


class OpenAIErrorBody(BaseModel):
    """The body of an error response."""

    error: OpenAIError


_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": OpenAIErrorBody, "description": text}
    for status, text in {
        400: INVALID_REQUEST,
        404: "No such model",
        429: "The queue is full: see Retry-After",
        503: "Not ready: see Retry-After",
        504: "The deadline has passed",
    }.items()
}


router = APIRouter(tags=["generate"])


@router.post(
    "/v1/images/generations",
    summary="Generate images, for OpenAI's SDK",
    response_model=ImagesResponse,
    responses=_ERRORS,
)
async def generations(body: ImagesRequest, request: Request) -> Response:
    """Generate images, or return their addresses for `response_format` url."""
    state = state_of(request)
    model = state.find_model(body.model)
    _check_size(body.size, model)
    sources = _sources(body, model, state.settings.max_images)
    image_format = ImageFormat(body.output_format or ImageFormat.PNG)
    output = with_credentials(OutputFormat("image", image_format), body.c2pa, state)
    if body.response_format == "url":
        # Nothing is generated now: the image's address generates it on request.
        urls = _urls(request, model, sources, image_format, body.c2pa)
        return _images_response(model, sources, image_format, [{"url": url} for url in urls])

    records = [ImageRecord(source.parameters(model.manifest), source.name) for source in sources]

    def encode(images: Pixels) -> Response:
        files = [
            responses.encode_image(model, record, pixels, output)
            for record, pixels in zip(records, images, strict=True)
        ]
        contents = [{"b64_json": base64.b64encode(file).decode()} for file in files]
        return _images_response(model, sources, image_format, contents)

    async with request_execution(state.engine, request, state.settings.deadline_s) as execution:
        try:
            plan = image_plan(model.manifest, sources, execution.style_cache(model))
            return await execution.execute(model, plan, encode, long=output.signed)
        except JobTooLarge as error:
            message = f"the request is larger than the queue: {error}"
            raise invalid("n", message) from error


def read_prompt(prompt: str, model: Model) -> tuple[int | None, int | None]:
    """Return the class index and the seed that a prompt stands for; one of them is None.

    For a class-conditional model, the prompt is a class name (case-insensitive) or a decimal class
    index; a name takes precedence. For other models, decimal digits up to 2³² - 1 are the seed. Any
    other text is hashed: the seed is the first four bytes, big-endian, of the SHA-256 of its UTF-8
    encoding.

    Raises Problem for an unknown class.
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
    listed = ", ".join(names[:_MAX_CLASSES_LISTED])
    if (more := len(names) - _MAX_CLASSES_LISTED) > 0:
        listed += f", and {more} more in /v1/models/{model.manifest.name}"
    raise invalid(
        "prompt", f"expected the name or index of a class, got {text[:50]!r}; classes: {listed}"
    )


def _sources(body: ImagesRequest, model: Model, maximum: int) -> list[LatentSource]:
    count = body.n or 1
    if count > maximum:
        raise invalid("n", f"expected 1 to {maximum}, got {count}")
    class_index, first_seed = read_prompt(body.prompt, model)
    if body.seed is not None:
        first_seed = body.seed
    elif first_seed is None:
        first_seed = secrets.randbelow(MAX_SEED + 1)
    return requests.generate_sources(
        model.manifest,
        max_images=maximum,
        seeds=[(first_seed + i) % (MAX_SEED + 1) for i in range(count)],
        class_=class_index,
        truncation=body.truncation,
    )


def _check_size(size: str | None, model: Model) -> None:
    expected = _size(model)
    if size not in (None, "auto", expected):
        message = f"expected auto or {expected}, the image size of {model.manifest.name}"
        raise invalid("size", message)


def _size(model: Model) -> str:
    image = model.manifest.image
    return f"{image.width}x{image.height}"


def _urls(
    request: Request,
    model: Model,
    sources: Sequence[LatentSource],
    image_format: ImageFormat,
    c2pa: bool | None,
) -> list[str]:
    """Return the absolute addresses of the images, on the host that the request was sent to."""
    credentials = {} if c2pa is None else {"c2pa": str(c2pa).lower()}
    urls = []
    for source in sources:
        path = request.app.url_path_for(
            "image",
            name=model.manifest.name,
            seed=source.seed,
            extension=image_format.extension,
        )
        query = source.parameters(model.manifest) | {"version": model.manifest.version}
        query |= credentials
        del query["seed"]
        urls.append(f"{path.make_absolute_url(request.base_url)}?{urlencode(query)}")
    return urls


def _images_response(
    model: Model,
    sources: Sequence[LatentSource],
    image_format: ImageFormat,
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
        "output_format": image_format,
        "size": _size(model),
        **responses.identity(model),
        "data": data,
    }
    return Response(json.dumps(document), media_type="application/json")
