"""`/sdapi/v1/extra-single-image` and `extra-batch-images`: AUTOMATIC1111's API for upscaling.

Front ends that were written for AUTOMATIC1111's web UI upscale with the models of the task
`upscale`. Their fields are validated as loosely as there (``"true"`` is true), but nothing that
changes the image is ignored: what this service cannot do is refused, unless it is turned off.

Sizes are exact, where the web UI rounds down to multiples of 8 pixels. A scale other than the
model's is reached by resampling its output.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from service.api import responses
from service.api.execution import RequestExecution, request_execution
from service.api.image_to_image.work import ImageToImageWork, InputImage, ReadyImage
from service.api.middleware.json_bodies import body_size, process
from service.api.negotiation import OutputFormat, with_credentials
from service.api.problems import Problem, invalid
from service.api.routes import head_requests
from service.api.schemas.fields import C2PA, MAX_LISTED_IMAGES, CredentialField, RequestModel
from service.api.state import ServiceState, UploadTooLarge, state_of
from service.runtime.base64_text import decode_base64
from service.runtime.images.encoding import ImageFormat, Pixels, resized
from service.runtime.models.catalog import ModelNotFound
from service.runtime.models.manifest import Manifest
from service.runtime.models.model import Model
from service.runtime.models.parts.tasks import Task
from service.runtime.requests import MAX_RESIZED_SIDE

router = APIRouter(tags=["images"])

_TASK: Task = "upscale"
# What clients send for an upscaler that they do not choose.
_NONE = ("none", "")
# Values that turn off a field.
_OFF: tuple[object, ...] = (None, False, 0, "", "None", "none", "false", "0", [], {})
_OUTPUT = OutputFormat("image", ImageFormat.PNG)

_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_UNSUPPORTED = "Must be 0: faces are not restored."
_NO_EFFECT = "Accepted for compatibility; has no effect."


class ExtrasRequest(RequestModel):
    """The size of the output, and the model that makes it."""

    # Strings such as "true" and numbers for booleans are accepted, as clients send them.
    model_config = ConfigDict(extra="allow")

    resize_mode: Literal[0, 1, "0", "1"] = Field(
        default=0,
        description="0: by the factor `upscaling_resize`. 1: to `upscaling_resize_w` × "
        "`upscaling_resize_h`.",
    )
    upscaling_resize: Annotated[float, Field(gt=0, le=MAX_RESIZED_SIDE, allow_inf_nan=False)] = (
        Field(default=2, description="The factor, for the mode 0.")
    )
    upscaling_resize_w: Annotated[int, Field(ge=1, le=MAX_RESIZED_SIDE)] = Field(
        default=512, description="Width in pixels, for the mode 1."
    )
    upscaling_resize_h: Annotated[int, Field(ge=1, le=MAX_RESIZED_SIDE)] = Field(
        default=512, description="Height in pixels, for the mode 1."
    )
    upscaling_crop: bool = Field(
        default=True,
        description="In the mode 1, for another aspect ratio: crop around the center to the exact "
        "size. Otherwise the image covers it.",
    )
    upscaler_1: str | None = Field(
        default=None,
        max_length=200,
        description="A model of `/sdapi/v1/upscalers`. Default, and for None: its first.",
    )
    upscaler_2: str | None = Field(default=None, max_length=200, description="Must be None.")
    extras_upscaler_2_visibility: _Share = Field(
        default=0, description="Must be 0, unless `upscaler_2` is None: results are not blended."
    )
    gfpgan_visibility: _Share = Field(default=0, description=_UNSUPPORTED)
    codeformer_visibility: _Share = Field(default=0, description=_UNSUPPORTED)
    codeformer_weight: _Share = Field(default=0, description=_NO_EFFECT)
    show_extras_results: bool = Field(default=True, description=_NO_EFFECT)
    upscale_first: bool = Field(default=False, description=_NO_EFFECT)
    c2pa: CredentialField = Field(default=None, description=f"Extension. {C2PA}")


class ExtrasSingleImageRequest(ExtrasRequest):
    """One image to upscale."""

    image: str = Field(description="A PNG, JPEG or WebP file in base64, or a data URL.")


class FileData(RequestModel):
    """One image of a batch."""

    data: str = Field(description="A PNG, JPEG or WebP file in base64, or a data URL.")
    name: str = Field(default="", max_length=1000)


class ExtrasBatchImagesRequest(ExtrasRequest):
    """Several images to upscale."""

    imageList: Annotated[  # noqa: N815 - the name in the API
        list[FileData], Field(min_length=1, max_length=MAX_LISTED_IMAGES, fail_fast=True)
    ]


class ExtrasSingleImageResponse(BaseModel):
    """The upscaled image."""

    html_info: str = Field(description="What was done, as HTML.")
    image: str = Field(description="A PNG file in base64.")


class ExtrasBatchImagesResponse(BaseModel):
    """The upscaled images, in the order of the inputs."""

    html_info: str = Field(description="What was done to each image, as HTML.")
    images: list[str] = Field(description="PNG files in base64.")


class UpscalerItem(BaseModel):
    """A model that upscales."""

    model_config = ConfigDict(protected_namespaces=())

    name: str
    model_name: str | None = None
    model_path: str | None = None
    model_url: str | None = None
    scale: float


@head_requests.get(
    router, "/sdapi/v1/upscalers", summary="List upscalers, for AUTOMATIC1111's clients"
)
async def upscalers(request: Request) -> list[UpscalerItem]:
    """List the models that upscale, with their factors."""
    return [
        UpscalerItem(
            name=manifest.name,
            model_name=f"{manifest.name}@{manifest.version}",
            scale=manifest.input.factor,
        )
        for manifest in _upscalers(state_of(request))
        if manifest.input is not None
    ]


@router.post(
    "/sdapi/v1/extra-single-image",
    summary="Upscale an image, for AUTOMATIC1111's clients",
    response_model=ExtrasSingleImageResponse,
    responses=responses.PROBLEMS,
)
async def extra_single_image(body: ExtrasSingleImageRequest, request: Request) -> Response:
    """Upscale one image to a factor or a size."""
    (image,), headers = await _upscaled(request, body, {"image": body.image})
    document = {"html_info": image.info, "image": image.content}
    return Response(json.dumps(document), 200, headers, "application/json")


@router.post(
    "/sdapi/v1/extra-batch-images",
    summary="Upscale several images, for AUTOMATIC1111's clients",
    response_model=ExtrasBatchImagesResponse,
    responses=responses.PROBLEMS,
)
async def extra_batch_images(body: ExtrasBatchImagesRequest, request: Request) -> Response:
    """Upscale images to a factor or a size."""
    maximum = state_of(request).settings.max_images
    if len(body.imageList) > maximum:
        raise invalid("imageList", f"expected 1 to {maximum} images, got {len(body.imageList)}")
    files = {f"imageList.{i}.data": file.data for i, file in enumerate(body.imageList)}
    images, headers = await _upscaled(request, body, files)
    document = {
        "html_info": "".join(image.info for image in images),
        "images": [image.content for image in images],
    }
    return Response(json.dumps(document), 200, headers, "application/json")


@dataclass(frozen=True)
class _Target:
    """The size to which the output of a model is resampled, and the part of it that is kept.

    `size` is width and height, `crop` x, y, width and height; both in pixels.
    """

    size: tuple[int, int]
    crop: tuple[int, int, int, int] | None

    @property
    def pixels(self) -> int:
        return self.size[0] * self.size[1]


@dataclass(frozen=True)
class _UpscaledImage:
    """One image of a response: a PNG file in base64, and what was done, as HTML."""

    content: str
    info: str


async def _upscaled(
    request: Request, body: ExtrasRequest, texts: dict[str, str]
) -> tuple[list[_UpscaledImage], dict[str, str]]:
    """Return the upscaled images, and the headers of the response.

    `texts` are images in base64, by field. Raises Problem, and the errors of RequestExecution.run.
    """
    state = state_of(request)
    _assert_supported(body)
    model = _find_upscaler(state, body.upscaler_1)
    files = await process(body_size(request), lambda: _decode(texts))
    output = with_credentials(_OUTPUT, body.c2pa, state)
    finish = partial(_finish, model, body, output)
    digests: list[str] = []
    images: list[_UpscaledImage] = []
    async with request_execution(state.engine, request, state.settings.deadline_s) as execution:
        # Long, because a small output may be resampled to a large image.
        work = ImageToImageWork(model, None, execution, state, finish, long=True)
        waiting: list[ReadyImage] = []
        for i, (field, file) in enumerate(zip(texts, files, strict=True)):
            item = await work.add(InputImage(field, "image", file), None, animated="refuse")
            waiting.append(item)
            digests.append(item.record.parameters["input"])
            if work.is_full or i + 1 == len(files):
                images += await _run(work, waiting, body, execution, state)
                waiting = []
    return images, responses.headers(model, input=digests)


async def _run(
    work: ImageToImageWork[_UpscaledImage],
    waiting: Sequence[ReadyImage],
    body: ExtrasRequest,
    execution: RequestExecution,
    state: ServiceState,
) -> list[_UpscaledImage]:
    """Run the images that wait in `work`, within the limits of memory and rate."""
    targets = [_target(body, item, state.settings.max_upload_pixels) for item in waiting]
    generated = sum(item.translation.output_pixels for item in waiting)
    added = sum(
        max(0, target.pixels - item.translation.output_pixels)
        for item, target in zip(waiting, targets, strict=True)
    )
    with _memory(state, sum(target.pixels for target in targets)):
        # So that images that have been made are not refused.
        execution.reserve_pixels(generated + added)
        results = await work.run()
        execution.charge_resampled(added)
    return [result for _, result in results]


def _assert_supported(body: ExtrasRequest) -> None:
    """Raise Problem (422) if `body` asks for something that would be left out of the image."""
    for field in ("gfpgan_visibility", "codeformer_visibility"):
        if getattr(body, field) > 0:
            raise invalid(field, "expected 0: this service upscales, and restores no faces")
    if not _is_none(body.upscaler_2) and body.extras_upscaler_2_visibility > 0:
        raise invalid("extras_upscaler_2_visibility", "expected 0: one upscaler is used at a time")
    for field, value in (body.model_extra or {}).items():
        if value not in _OFF:
            raise invalid(
                field[:50], "is not supported here; leave it out, or set it to 0, false or None"
            )


def _is_none(upscaler: str | None) -> bool:
    return upscaler is None or upscaler.strip().lower() in _NONE


def _upscalers(state: ServiceState) -> list[Manifest]:
    """Return the manifests of all models that upscale, by name. Raises NotReady."""
    catalog = state.ready_catalog()
    manifests = [catalog.default(name).manifest for name in catalog.names()]
    return [each for each in manifests if each is not None and each.task == _TASK]


def _find_upscaler(state: ServiceState, name: str | None) -> Model:
    """Return the model `name`, or the first upscaler for None. Raises NotReady, Problem (404)."""
    if name is not None and not _is_none(name):
        try:
            model = state.find_any_model(name)
        except ModelNotFound:
            model = None
        if model is not None and model.manifest.task == _TASK:
            return model
    available = [manifest.name for manifest in _upscalers(state)]
    if available and (name is None or _is_none(name)):
        return state.find_model(available[0], _TASK)
    listed = ", ".join(available) or "none"
    asked = "no upscaler is served" if name is None else f"no upscaler is named {name[:50]!r}"
    raise Problem(
        404, "model-not-found", "Model not found", f"upscaler_1: {asked}; available: {listed}"
    )


def _decode(texts: dict[str, str]) -> list[bytes]:
    """Return the files in base64 `texts`, by field. Raises Problem (422)."""
    files = []
    for field, text in texts.items():
        try:
            files.append(decode_base64(text))
        except ValueError as error:
            raise invalid(field, str(error)) from error
    return files


def _target(body: ExtrasRequest, item: ReadyImage, max_pixels: int) -> _Target:
    """Return the size and the crop of one output. Raises Problem (422) if it is too large."""
    height, width = item.translation.image.shape[:2]
    crop = None
    if int(body.resize_mode) == 0:
        scale = body.upscaling_resize
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        field = "upscaling_resize"
    else:
        wanted = (body.upscaling_resize_w, body.upscaling_resize_h)
        scale = max(wanted[0] / width, wanted[1] / height)
        size = (max(wanted[0], round(width * scale)), max(wanted[1], round(height * scale)))
        field = "upscaling_resize_w"
        if body.upscaling_crop and size != wanted:
            crop = ((size[0] - wanted[0]) // 2, (size[1] - wanted[1]) // 2, *wanted)
    if max(size) > MAX_RESIZED_SIDE or size[0] * size[1] > max_pixels:
        raise invalid(
            field,
            f"the output of {width}x{height} pixels would have {size[0]}x{size[1]}, and the "
            f"maximum is {MAX_RESIZED_SIDE:,} pixels per side and {max_pixels:,} in all",
        )
    return _Target(size, crop)


def _finish(
    model: Model, body: ExtrasRequest, output: OutputFormat, item: ReadyImage, pixels: Pixels
) -> _UpscaledImage:
    """Resample, crop and encode the output ``[H, W, C]`` of a model."""
    height, width = item.translation.image.shape[:2]
    made = (pixels.shape[1], pixels.shape[0])
    target = _target(body, item, max_pixels=MAX_RESIZED_SIDE**2)
    changes: dict[str, Any] = {}
    done = [f"{model.manifest.name}@{model.manifest.version}: {width}x{height} to {_text(made)}"]
    if target.size != made:
        pixels = resized(pixels, *target.size)
        changes["resized"] = list(target.size)
        done.append(f"resampled to {_text(target.size)}")
    if target.crop is not None:
        x, y, crop_width, crop_height = target.crop
        pixels = np.ascontiguousarray(pixels[y : y + crop_height, x : x + crop_width])
        changes["cropped"] = list(target.crop)
        done.append(f"cropped to {crop_width}x{crop_height}")
    record = replace(item.record, parameters={**item.record.parameters, **changes})
    file = responses.encode_image(model, record, pixels, output)
    return _UpscaledImage(base64.b64encode(file).decode(), f"<p>{html.escape(', '.join(done))}</p>")


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


@contextmanager
def _memory(state: ServiceState, pixels: int) -> Iterator[None]:
    """Reserve memory for the resampled images. Raises Problem (422) and QueueFull."""
    try:
        state.upload_pixels.acquire(pixels)
    except UploadTooLarge as error:
        raise invalid(
            "upscaling_resize",
            f"the images have {pixels:,} pixels together, and the maximum is "
            f"{state.upload_pixels.limit:,}",
        ) from error
    try:
        yield
    finally:
        state.upload_pixels.release(pixels)
