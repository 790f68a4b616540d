"""`POST /v1/invert`: images to latents, by the encoder of a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Header, Request
from fastapi.responses import Response

from service.api import responses
from service.api.execution import request_execution
from service.api.image_forms import UploadedFile, read_upload, upload_schema
from service.api.negotiation import OutputFormat, negotiate, with_credentials
from service.api.problems import Problem, invalid, unusable_image
from service.api.responses import ImageRecord
from service.api.schemas.invert import InvertRequest, InvertResponse
from service.api.state import PixelBudget, ServiceState, UploadTooLarge, state_of
from service.runtime import latent_requests
from service.runtime.generation import inversion_plan, inversion_rows
from service.runtime.image_to_image import digest_of
from service.runtime.images import encoding
from service.runtime.images.decoding import ImageDecodeError, decode_image
from service.runtime.images.fitting import FittedImage, fit_image
from service.runtime.latent.inversion import Inversion
from service.runtime.models.model import Model
from service.runtime.scheduling.errors import JobTooLarge

router = APIRouter(tags=["images"])

_BINARY = {"type": "string", "format": "binary"}
_FORM = {
    "type": "object",
    "required": ["model", "image"],
    "properties": {
        "model": {"type": "string"},
        "image": {"type": "array", "items": _BINARY},
        "class": {"type": "string"},
        "animated": {"type": "string", "enum": ["refuse", "first"]},
        "c2pa": {"type": "boolean"},
        "format": {"type": "string", "enum": ["png", "jpeg", "webp", "npy", "zip", "json"]},
    },
}
_SIGNIFICANT_DIGITS = 6


@router.post(
    "/v1/invert",
    summary="Find the latents of images",
    response_model=InvertResponse,
    responses=responses.IMAGE_RESPONSES,
    openapi_extra=upload_schema(InvertRequest, _FORM),
)
async def invert(request: Request, accept: Annotated[str | None, Header()] = None) -> Response:
    """Find the latents whose images are most like the given images."""
    state = state_of(request)
    upload = await read_upload(request, InvertRequest, ("image",), state.settings.max_images)
    body, files = upload.body, upload.files["image"]
    model = state.find_model(body.model)
    if model.manifest.encoder is None:
        raise _no_encoder(model)
    if not files:
        raise invalid("image", "missing: send at least one image")
    classes = latent_requests.inversion_classes(
        model.manifest,
        class_=body.class_,
        images=len(files),
        max_images=state.settings.max_images,
    )
    output = negotiate(body.format, accept, len(files))
    output = with_credentials(output, body.c2pa, state)
    pixels = 2 * len(files) * max(len(classes), 1) * model.manifest.image_spec.pixels
    with reserved_pixels(state.upload_pixels, pixels):
        return await _invert(request, model, body, files, classes, output)


async def _invert(
    request: Request,
    model: Model,
    body: InvertRequest,
    files: list[UploadedFile],
    classes: list[int],
    output: OutputFormat,
) -> Response:
    """Fit the images to the model, invert them, and package the result."""
    state = state_of(request)
    async with request_execution(state.engine, request, state.settings.deadline_s) as execution:
        # For all passes at once, so that the rate limit cannot interrupt the inversion.
        rows = inversion_rows(model.manifest, len(files), len(classes))
        execution.reserve(model, rows)
        inputs = [
            await execution.in_thread(
                partial(fitted_upload, model, file, body.animated, state), state.decoders
            )
            for file in files
        ]
        images = np.stack([fitted.pixels for _, fitted in inputs])
        changes = [{"input": digest} | fitted.changes for digest, fitted in inputs]
        names = [file.name for file in files]
        try:
            return await execution.execute(
                model,
                inversion_plan(model.manifest, images, classes),
                lambda found: _response(model, found, changes, names, output),
                wait_after_first=True,
                long=output.signed,
            )
        except JobTooLarge as error:
            message = f"the request is larger than the queue: {error}"
            raise invalid("image", message) from error


@contextmanager
def reserved_pixels(budget: PixelBudget, pixels: int) -> Iterator[None]:
    """Reserve memory for images and reconstructions. Raises Problem (422) and QueueFull."""
    try:
        budget.acquire(pixels)
    except UploadTooLarge as error:
        raise unusable_image(
            "picture-too-large",
            f"image: images and reconstructions have {pixels:,} pixels together, but the maximum "
            f"is {budget.limit:,}; send fewer images",
            "image",
        ) from error
    try:
        yield
    finally:
        budget.release(pixels)


def fitted_upload(
    model: Model, file: UploadedFile, animated: Literal["refuse", "first"], state: ServiceState
) -> tuple[str, FittedImage]:
    """Return the digest of a file's pixels, and the image in the model's size.

    Raises Problem (422).
    """
    try:
        image = decode_image(
            file.content, max_pixels=state.settings.max_upload_pixels, animated=animated
        )
    except ImageDecodeError as error:
        raise unusable_image(error.kind.value, f"{file.field}: {error}", file.field) from error
    return digest_of(image), fit_image(image, model.manifest.image_spec)


def _response(
    model: Model,
    found: list[Inversion],
    changes: list[dict[str, Any]],
    names: list[str],
    output: OutputFormat,
) -> Response:
    """Package the latents with their reconstructions."""
    space = model.manifest.latent_space_name
    lists: dict[str, Sequence[object]] = {
        space: [responses.encoded_latent(inversion.source) for inversion in found],
        "psnr": [_rounded(inversion.psnr) for inversion in found],
        "mean_squared_error": [_rounded(inversion.mean_squared_error) for inversion in found],
        "input": [change["input"] for change in changes],
    }
    fitted = {
        "crop": [_cropped(change) for change in changes],
        "resized": [_resized(change) for change in changes],
        "color": [change.get("color", "") for change in changes],
        "background": [change.get("background", "") for change in changes],
    }
    lists |= {name: values for name, values in fitted.items() if any(values)}
    sources = [inversion.source for inversion in found]
    headers = responses.source_headers(model, sources) | responses.headers(model, **lists)
    if output.container == "npy":
        latents = np.stack([inversion.latent for inversion in found])
        return Response(encoding.encode_npy(latents), 200, headers, "application/x-npy")
    records = [
        ImageRecord(
            inversion.source.parameters(model.manifest)
            | {"inversion": inversion.parameters() | change},
            name,
            arrays={space: inversion.latent},
        )
        for inversion, change, name in zip(found, changes, names, strict=True)
    ]
    pixels = np.stack([inversion.reconstruction for inversion in found])
    return responses.image_response(model, records, pixels, output, headers)


def _no_encoder(model: Model) -> Problem:
    name = model.manifest.name
    message = f"{name} has no encoder: `ganymede train-encoder {name}` trains one"
    return Problem(
        422,
        "no-encoder",
        "The model cannot invert images",
        message,
        errors=[{"field": "model", "message": message}],
    )


def _rounded(value: float | None) -> str:
    return "" if value is None else f"{value:.{_SIGNIFICANT_DIGITS}g}"


def _cropped(change: dict[str, Any]) -> str:
    """Return ``300x300+50+0``, the size and the offset; empty if nothing was cut off."""
    crop = change.get("crop")
    return "" if crop is None else "{2}x{3}+{0}+{1}".format(*crop)


def _resized(change: dict[str, Any]) -> str:
    """Return ``640x480>32x32``; empty if the image was not resized."""
    sizes = change.get("resized_input")
    return "" if sizes is None else ">".join(f"{w}x{h}" for w, h in sizes.values())
