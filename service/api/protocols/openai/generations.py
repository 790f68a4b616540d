"""`POST /v1/images/generations`: OpenAI's image API, so that its SDKs work unchanged.

A text-to-image model takes the prompt as a description. For a class-conditional model, a prompt
names the class; for other models, it determines the seed, so that the same text always gives the
same images.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import Response

from service.api import responses
from service.api.execution import RequestExecution, request_execution
from service.api.problems import invalid
from service.api.protocols.openai.images import (
    Output,
    OutputImage,
    images_response,
    json_response,
    memory_for,
    read_output,
    size_text,
    stream_response,
    wants_stream,
)
from service.api.protocols.openai.schemas import ERRORS, ImagesRequest, ImagesResponse
from service.api.routes.text.prompts import encode_prompts
from service.api.state import ServiceState, state_of
from service.runtime import requests
from service.runtime.generation import image_plan
from service.runtime.images.encoding import ImageFormat, Pixels
from service.runtime.latent.seeds import MAX_SEED
from service.runtime.latent.sources import LatentSource
from service.runtime.models.model import Model
from service.runtime.scheduling.errors import JobTooLarge
from service.runtime.text.requests import prompt_sources

_MAX_CLASSES_LISTED = 100

router = APIRouter(tags=["generate"])


@router.post(
    "/v1/images/generations",
    summary="Generate images, for OpenAI's SDK",
    response_model=ImagesResponse,
    responses=ERRORS,
)
async def generations(body: ImagesRequest, request: Request) -> Response:
    """Generate images, or return their addresses for `response_format` url."""
    state = state_of(request)
    model = state.find_model(body.model, "generate", "text-to-image")
    output = read_output(body, model, state)
    is_stream = wants_stream(body)
    sources = _sources(body, model, state.settings.max_images)
    headers = responses.source_headers(model, sources)
    if body.response_format == "url":
        return _addresses(request, output, sources, headers, body.c2pa)
    added_pixels = output.resampled_pixels(len(sources))
    async with AsyncExitStack() as stack:
        stack.enter_context(memory_for(state, output, len(sources)))
        execution = await stack.enter_async_context(
            request_execution(state.engine, request, state.settings.deadline_s)
        )
        # For all images at once, so that the rate limit cannot interrupt the response.
        execution.reserve_pixels(len(sources) * model.manifest.image_spec.pixels + added_pixels)
        if model.manifest.text_input is not None:
            sources, prompt_headers = await encode_prompts(execution, state, model, sources)
            headers |= prompt_headers
        if is_stream:
            images = _streamed(execution, output, sources, state)
            return await stream_response(
                request, stack, output, images, "image_generation", headers
            )
        try:
            finished = await _generated(execution, output, sources)
        except JobTooLarge as error:
            message = f"the request is larger than the queue: {error}"
            raise invalid("n", message) from error
        execution.charge_resampled(added_pixels)
        return images_response(output, finished, headers)


async def _generated(
    execution: RequestExecution, output: Output, sources: Sequence[LatentSource]
) -> list[OutputImage]:
    """Return the images of `sources`. Raises Problem, and the errors of RequestExecution.run."""
    model = output.model

    def encode(images: Pixels) -> list[OutputImage]:
        return [
            output.encode(pixels, parameters, _revised_prompt(parameters))
            for parameters, pixels in zip(
                (source.parameters(model.manifest) for source in sources), images, strict=True
            )
        ]

    plan = image_plan(model.manifest, sources, execution.style_cache(model))
    return await execution.execute(model, plan, encode, long=output.takes_long)


async def _streamed(
    execution: RequestExecution,
    output: Output,
    sources: Sequence[LatentSource],
    state: ServiceState,
) -> AsyncGenerator[OutputImage, None]:
    """Yield the images of `sources`, which are generated in parts as large as a batch.

    The first part fails if the queue is full; later ones wait for room, each with a deadline of its
    own.
    """
    model = output.model
    size = model.plan.workers * model.plan.max_rows
    size = max(1, min(size, state.settings.queue_pixels // 4 // model.manifest.image_spec.pixels))
    for start in range(0, len(sources), size):
        part = sources[start : start + size]
        if start == 0:
            images = await _generated(execution, output, part)
        else:
            execution.renew_deadline()
            images = await execution.wait_for_queue(
                lambda: _generated(execution, output, part)  # noqa: B023 - awaited at once
            )
        execution.charge_resampled(output.resampled_pixels(len(part)))
        for image in images:
            yield image


def _addresses(
    request: Request,
    output: Output,
    sources: Sequence[LatentSource],
    headers: dict[str, str],
    c2pa: bool | None,
) -> Response:
    """Return the addresses of images. Nothing is generated now: each address does on request."""
    manifest = output.model.manifest
    size = (manifest.image_spec.width, manifest.image_spec.height)
    if output.size not in (None, size):
        message = f"the images at addresses have the model's size, {size_text(size)}; use b64_json"
        raise invalid("size", message)
    urls = _urls(request, output.model, sources, output.format, c2pa)
    data = []
    for source, url in zip(sources, urls, strict=True):
        parameters = source.parameters(manifest)
        data.append(
            {"url": url, "size": size_text(size), **parameters, **_revised_prompt(parameters)}
        )
    sizes = [size] * len(sources)
    transparent = manifest.image_spec.channels == 4 and output.format is not ImageFormat.JPEG
    return json_response(output, data, sizes, sizes, headers, transparent)


def _revised_prompt(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {"revised_prompt": parameters["class"]} if "class" in parameters else {}


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
    if model.manifest.text_input is not None:
        return prompt_sources(
            model.manifest,
            max_images=maximum,
            prompt=body.prompt,
            seeds=_seeds(body.seed, count),
            truncation=body.truncation,
        )
    class_index, first_seed = read_prompt(body.prompt, model)
    if body.seed is not None:
        first_seed = body.seed
    return requests.generate_sources(
        model.manifest,
        max_images=maximum,
        seeds=_seeds(first_seed, count),
        class_=class_index,
        truncation=body.truncation,
    )


def _seeds(first: int | None, count: int) -> list[int]:
    """Return `count` seeds from `first` on, modulo 2³²; default: from a random one."""
    first = secrets.randbelow(MAX_SEED + 1) if first is None else first
    return [(first + i) % (MAX_SEED + 1) for i in range(count)]


def _urls(
    request: Request,
    model: Model,
    sources: Sequence[LatentSource],
    image_format: ImageFormat,
    c2pa: bool | None,
) -> list[str]:
    """Return the absolute addresses of the images, on the host that the request was sent to.

    Raises Problem (422) if they are too long to be requested.
    """
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
        # The version determines the text encoder.
        query = {name: query[name] for name in query if name not in ("seed", "encoder_digest")}
        urls.append(f"{path.make_absolute_url(request.base_url)}?{urlencode(query)}")
        # Half of the limit is left for headers.
        longest = state_of(request).settings.max_header_bytes // 2
        if len(urls[-1]) > longest:
            message = f"the address would exceed {longest:,} characters; use b64_json"
            raise invalid("prompt", message)
    return urls
