"""`POST /v1/translate`, `/v1/upscale`, `/v1/inpaint` and `/v1/colorize`: images from images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Header, Request
from fastapi.responses import Response

from service.api import responses
from service.api.execution import RequestExecution, request_execution
from service.api.image_forms import ImageToImageInput, body_schema, read_request
from service.api.image_to_image.work import ImageToImageWork, InputImage, ReadyImage
from service.api.negotiation import OutputFormat, negotiate, with_credentials
from service.api.problems import invalid
from service.api.responses import ImageRecord
from service.api.schemas.image_to_image import ImageToImageResponse, SamplesRequest
from service.api.state import ServiceState, state_of
from service.runtime import requests
from service.runtime.generation import image_plan
from service.runtime.image_to_image import decoded_from_pixels
from service.runtime.images import encoding
from service.runtime.images.encoding import Pixels
from service.runtime.images.masks import MaskInput
from service.runtime.models.model import Model
from service.runtime.models.parts.tasks import Task

router = APIRouter(tags=["images"])

_Accept = Annotated[str | None, Header()]
# The entry of an image in the response, how it was changed to fit the model, its file or pixels.
_Result = tuple[ImageRecord, dict[str, str], Any]


def _route_options(task: Task, summary: str) -> dict[str, Any]:
    return {
        "summary": summary,
        "response_model": ImageToImageResponse,
        "responses": responses.IMAGE_RESPONSES,
        "openapi_extra": body_schema(has_mask=task == "inpaint"),
    }


@router.post("/v1/translate", **_route_options("translate", "Translate images to another domain"))
async def translate(request: Request, accept: _Accept = None) -> Response:
    """Translate images from one domain to another."""
    return await _respond("translate", request, accept)


@router.post("/v1/upscale", **_route_options("upscale", "Upscale images"))
async def upscale(request: Request, accept: _Accept = None) -> Response:
    """Increase the resolution of images."""
    return await _respond("upscale", request, accept)


@router.post("/v1/inpaint", **_route_options("inpaint", "Fill masked areas of images"))
async def inpaint(request: Request, accept: _Accept = None) -> Response:
    """Fill the masked areas of images."""
    return await _respond("inpaint", request, accept)


@router.post("/v1/colorize", **_route_options("colorize", "Colorize grayscale images"))
async def colorize(request: Request, accept: _Accept = None) -> Response:
    """Add color to grayscale images."""
    return await _respond("colorize", request, accept)


async def _respond(task: Task, request: Request, accept: str | None) -> Response:
    state = state_of(request)
    upload = await read_request(request, state.settings.max_images)
    model = state.find_model(upload.body.model, task)
    direction = requests.direction_name(model.manifest, upload.body.direction)
    async with request_execution(state.engine, request, state.settings.deadline_s) as execution:
        sources = await _sources(upload, state, execution)
        output = negotiate(upload.body.format, accept, len(sources))
        output = with_credentials(output, upload.body.c2pa, state)
        masks = _masks(model, upload, len(sources))
        work = ImageToImageWork(
            model,
            direction,
            execution,
            state,
            partial(_finished, model, output),
            long=output.signed,
        )
        results: list[_Result] = []
        for i, (source, mask) in enumerate(zip(sources, masks, strict=True)):
            await work.add(source, mask, animated=upload.body.animated)
            if work.is_full or i + 1 == len(sources):
                # Without the pixels of the inputs, which need not stay in memory.
                results += [(item.record, item.changes(), each) for item, each in await work.run()]
        return _response(model, direction, output, results)


def _finished(model: Model, output: OutputFormat, item: ReadyImage, pixels: Pixels) -> Any:
    """Return the encoded file of an image; for NPY its pixels. Raises Problem (422)."""
    if output.container == "npy":
        return pixels
    image_format = output.image
    if max(pixels.shape[:2]) > image_format.longest_side:
        raise invalid(
            "format",
            f"{image_format} is limited to {image_format.longest_side:,} pixels per side, and "
            f"the image has {max(pixels.shape[:2]):,}; use png",
        )
    return responses.encode_image(model, item.record, pixels, output)


def _response(
    model: Model, direction: str | None, output: OutputFormat, results: Sequence[_Result]
) -> Response:
    """Package all images in one response."""
    records = [record for record, _, _ in results]
    finished = [result for _, _, result in results]
    lists: dict[str, Any] = {"input": [record.parameters["input"] for record in records]}
    if direction is not None:
        lists["direction"] = [direction]
    changes = [each for _, each, _ in results]
    by_header = {name: [change[name] for change in changes] for name in changes[0]}
    lists |= {name: values for name, values in by_header.items() if any(values)}
    headers = responses.headers(model, **lists)
    if output.container == "npy":
        if len({array.shape for array in finished}) > 1:
            raise invalid("format", "npy needs images of equal size; use zip or json")
        content = encoding.encode_npy(np.stack(finished))
        return Response(content, 200, headers, "application/x-npy")
    return responses.file_response(model, records, finished, output, headers)


async def _sources(
    upload: ImageToImageInput, state: ServiceState, execution: RequestExecution
) -> list[InputImage]:
    """Return the input images; samples are generated here. Raises Problem and InvalidRequest."""
    if upload.body.samples is None:
        return [InputImage(file.field, file.name, file.content) for file in upload.images]
    samples: SamplesRequest = upload.body.samples
    model = state.find_model(samples.model)
    sources = requests.generate_sources(
        model.manifest,
        max_images=state.settings.max_images,
        n=samples.n,
        seed=samples.seed,
        seeds=samples.seeds,
        class_=samples.class_,
        truncation=samples.truncation,
    )
    plan = image_plan(model.manifest, sources, execution.style_cache(model))
    pixels = await execution.execute(model, plan, lambda images: images)
    identity = responses.identity(model)
    return [
        InputImage(
            f"image.{i}",
            "image",
            decoded_from_pixels(image),
            identity | source.parameters(model.manifest),
        )
        for i, (image, source) in enumerate(zip(pixels, sources, strict=True))
    ]


def _masks(model: Model, upload: ImageToImageInput, count: int) -> Sequence[MaskInput | None]:
    """Return the mask of each of `count` images. Raises Problem (422)."""
    masks, boxes = upload.masks, upload.body.boxes
    if model.manifest.input is None or not model.manifest.input.masked:
        if masks or boxes:
            raise invalid("mask", f"{model.manifest.name} takes no mask")
        return [None] * count
    if boxes:
        return [MaskInput(boxes=boxes)] * count
    if not masks:
        raise invalid("mask", "missing: send a mask whose white areas are filled, or boxes")
    if len(masks) not in (1, count):
        raise invalid("mask", f"got {len(masks)} masks for {count} images")
    inputs = [MaskInput(file=mask.content) for mask in masks]
    return inputs if len(inputs) == count else inputs * count
