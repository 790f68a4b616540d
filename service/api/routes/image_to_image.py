"""`POST /v1/translate`, `/v1/upscale`, `/v1/inpaint` and `/v1/colorize`: images from images."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Header, Request
from fastapi.responses import Response

from service.api import responses
from service.api.execution import RequestExecution, request_execution
from service.api.image_forms import ImageToImageInput, body_schema, read_request
from service.api.image_to_image.completion_time import CompletionEstimate
from service.api.negotiation import OutputFormat, negotiate, with_credentials
from service.api.problems import Problem, invalid, unusable_image
from service.api.responses import ImageRecord
from service.api.schemas.image_to_image import ImageToImageResponse, SamplesRequest
from service.api.state import ServiceState, UploadTooLarge, state_of
from service.runtime import requests
from service.runtime.generation import image_plan
from service.runtime.image_to_image import (
    Translation,
    UnusableInput,
    decoded_from_pixels,
    image_to_image_plan,
    prepare_image,
)
from service.runtime.images import encoding
from service.runtime.images.decoding import DecodedImage, ImageDecodeError
from service.runtime.images.encoding import Pixels
from service.runtime.images.masks import MaskInput
from service.runtime.models.manifest import GENERATOR, Task
from service.runtime.models.model import Model

router = APIRouter(tags=["images"])

# Maximum output pixels of images that run together; a larger image runs alone.
_BATCH_PIXELS = 2**20
_BATCH_IMAGES = 32

_Accept = Annotated[str | None, Header()]


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


@dataclass(frozen=True)
class _Item:
    """One input image, ready to run, with its entry in the response."""

    record: ImageRecord
    translation: Translation
    field: str


@dataclass(frozen=True)
class _Source:
    """An input image before it is decoded; `parameters` if another model generated it."""

    field: str
    name: str
    image: bytes | DecodedImage
    parameters: Mapping[str, Any] | None = None


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
        work = _ImageToImageWork(model, direction, output, execution, state)
        for i, (source, mask) in enumerate(zip(sources, masks, strict=True)):
            prepare = partial(_prepare, model, source, mask, i, upload, state, direction)
            item = await execution.in_thread(prepare, state.decoders)
            work.add(item)
            if work.is_full or i + 1 == len(sources):
                await work.run()
        return work.response()


async def _sources(
    upload: ImageToImageInput, state: ServiceState, execution: RequestExecution
) -> list[_Source]:
    """Return the input images; samples are generated here. Raises Problem and InvalidRequest."""
    if upload.body.samples is None:
        return [_Source(file.field, file.name, file.content) for file in upload.images]
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
        _Source(
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


def _prepare(
    model: Model,
    source: _Source,
    mask: MaskInput | None,
    number: int,
    upload: ImageToImageInput,
    state: ServiceState,
    direction: str | None,
) -> _Item:
    """Decode one image and its mask. Raises Problem (422)."""
    try:
        prepared = prepare_image(
            model,
            source.image,
            mask,
            direction=direction,
            max_pixels=state.settings.max_upload_pixels,
            animated=upload.body.animated,
            source=source.parameters,
        )
    except UnusableInput as error:
        field = f"{error.field}.{number}"
        if isinstance(error.cause, ImageDecodeError):
            raise unusable_image(error.cause.kind.value, f"{field}: {error}", field) from error
        raise invalid(field, str(error)) from error
    record = ImageRecord(prepared.parameters, source.name)
    return _Item(record, prepared.translation, f"image.{number}")


class _ImageToImageWork:
    """Runs the images of one request in batches, and collects the results."""

    def __init__(
        self,
        model: Model,
        direction: str | None,
        output: OutputFormat,
        execution: RequestExecution,
        state: ServiceState,
    ) -> None:
        self._model, self._direction, self._output = model, direction, output
        self._execution, self._state = execution, state
        self._waiting: list[_Item] = []
        self._records: list[ImageRecord] = []
        # How the inputs were changed to fit the model, by header.
        self._changes: dict[str, list[str]] = {"resized": [], "color": [], "tiles": []}
        self._files: list[bytes] = []
        self._arrays: list[Pixels] = []

    def add(self, item: _Item) -> None:
        """Add an image to the next batch."""
        self._waiting.append(item)

    @property
    def is_full(self) -> bool:
        """True if the batch should run now: it has one large image, or enough small ones."""
        pixels = sum(item.translation.output_pixels for item in self._waiting)
        limit = min(_BATCH_PIXELS, self._state.settings.queue_pixels // 8)
        return pixels >= limit or len(self._waiting) >= _BATCH_IMAGES

    async def run(self) -> None:
        """Run the waiting images concurrently and keep the results."""
        items, self._waiting = self._waiting, []
        acquired = 0
        try:
            for item in items:
                acquired += self._acquire(item)
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._run_one(item)) for item in items]
        except BaseExceptionGroup as several:
            # The response reports the first error.
            raise several.exceptions[0] from None
        finally:
            self._state.upload_pixels.release(acquired)
        for item, task in zip(items, tasks, strict=True):
            self._records.append(item.record)
            self._add_changes(item.translation)
            if self._output.container == "npy":
                self._arrays.append(task.result())
            else:
                self._files.append(task.result())

    def _add_changes(self, translation: Translation) -> None:
        """Note for the headers how an image was changed to fit the model."""
        parameters, size = translation.parameters, translation.original_size
        shape = "{1}x{0}".format(*translation.tiling.shape)
        count = parameters["tiles"]["count"] if "tiles" in parameters else None
        self._changes["resized"].append(f"{size[0]}x{size[1]}>{shape}" if size else "")
        self._changes["color"].append(parameters.get("color", ""))
        self._changes["tiles"].append(f"{count}x{shape}" if count else "")

    def _acquire(self, item: _Item) -> int:
        """Reserve memory for the input and output of an image; return its pixels."""
        pixels = item.translation.output_pixels + item.translation.image[..., 0].size
        try:
            self._state.upload_pixels.acquire(pixels)
        except UploadTooLarge as error:
            raise unusable_image(
                "picture-too-large",
                f"image: input and output have {pixels:,} pixels together, but the maximum is "
                f"{self._state.upload_pixels.limit:,}",
                "image",
            ) from error
        return pixels

    async def _run_one(self, item: _Item) -> Any:
        """Return the encoded file of an image; for NPY its pixels."""
        translation = item.translation
        plan, settings = self._model.plan, self._state.settings
        # Small enough to leave room in the queue for other requests, large enough to fill batches.
        limit = settings.queue_pixels // 4 // translation.tile_pixels
        batch = plan.workers * self._model.max_rows(translation.tile_pixels)
        estimate = CompletionEstimate(len(translation.rows), settings.deadline_s)

        def check_time(rows: int, seconds: float) -> None:
            estimate.add_run(rows, seconds)
            if estimate.is_too_slow:
                raise self._too_slow(item, estimate)

        return await self._execution.execute(
            self._model,
            image_to_image_plan(
                [translation], self._direction or GENERATOR, max(1, min(batch, limit))
            ),
            lambda images: self._finish(item, images[0]),
            after_run=check_time,
            wait_after_first=True,
            long=self._output.signed,
        )

    def _too_slow(self, item: _Item, estimate: CompletionEstimate) -> Problem:
        height, width = item.translation.image.shape[:2]
        return unusable_image(
            "picture-too-large",
            f"{item.field}: {width} × {height} pixels would take {estimate.total:,.0f} s, and the "
            f"deadline is {self._state.settings.deadline_s:g} s; send a smaller image, or use "
            "`ganymede sample --input`",
            item.field,
        )

    def _finish(self, item: _Item, pixels: Pixels) -> Any:
        if self._output.container == "npy":
            return pixels
        image_format = self._output.image
        if max(pixels.shape[:2]) > image_format.longest_side:
            raise invalid(
                "format",
                f"{image_format} is limited to {image_format.longest_side:,} pixels per side, and "
                f"the image has {max(pixels.shape[:2]):,}; use png",
            )
        return responses.encode_image(self._model, item.record, pixels, self._output)

    def response(self) -> Response:
        """Package all images in one response."""
        lists: dict[str, Any] = {"input": [record.parameters["input"] for record in self._records]}
        if self._direction is not None:
            lists["direction"] = [self._direction]
        lists |= {name: values for name, values in self._changes.items() if any(values)}
        headers = responses.headers(self._model, **lists)
        if self._output.container == "npy":
            if len({array.shape for array in self._arrays}) > 1:
                raise invalid("format", "npy needs images of equal size; use zip or json")
            content = encoding.encode_npy(np.stack(self._arrays))
            return Response(content, 200, headers, "application/x-npy")
        return responses.file_response(
            self._model, self._records, self._files, self._output, headers
        )
