"""`POST /v1/generate`: images from seeds, latents or styles."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from fastapi import APIRouter, Request
from fastapi.responses import Response

from service.api import responses
from service.api.execution import request_execution
from service.api.middleware.json_bodies import body_size, process
from service.api.negotiation import OutputFormat, accept_header, negotiate
from service.api.problems import invalid
from service.api.responses import ImageRecord
from service.api.schemas.fields import transform_value
from service.api.schemas.generate import GenerateRequest, GenerateResponse, SourcesRequest
from service.api.state import state_of
from service.runtime import requests
from service.runtime.files import shortened
from service.runtime.generation import image_plan, style_plan
from service.runtime.images.encoding import ImageFormat
from service.runtime.latent.sources import ClassWeights, LatentSource, encode_floats, feeds
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import Array

router = APIRouter(tags=["generate"])

# Maximum bytes of styles: EXIF metadata is limited to 64 KiB, and contains other parameters too.
_MAX_JPEG_STYLES = 60_000


@router.post(
    "/v1/generate",
    summary="Generate images from seeds",
    response_model=GenerateResponse,
    responses=responses.IMAGE_RESPONSES,
)
async def generate(body: GenerateRequest, request: Request) -> Response:
    """Generate images from seeds, latents or styles."""
    state = state_of(request)
    model = state.find_model(body.model)
    sources = await process(
        body_size(request), lambda: listed_sources(body, model, state.settings.max_images)
    )
    output = negotiate(body.format, accept_header(request), len(sources))
    _check_returned_arrays(body, model, output)
    return await generate_response(request, model, sources, output, arrays=body.return_)


def listed_sources(body: SourcesRequest, model: Model, max_images: int) -> list[LatentSource]:
    """Return the source of each image. Raises InvalidRequest."""
    return requests.generate_sources(
        model.manifest,
        max_images=max_images,
        n=body.n,
        seed=body.seed,
        seeds=body.seeds,
        z=body.z,
        w=body.w,
        images=None if body.images is None else [image.fields() for image in body.images],
        class_=body.class_,
        blend=body.blend,
        truncation=body.truncation,
        transform=transform_value(body.transform),
    )


async def generate_response(
    request: Request,
    model: Model,
    sources: Sequence[LatentSource],
    output: OutputFormat,
    *,
    class_folders: bool = False,
    arrays: Sequence[str] = (),
) -> Response:
    """Generate the images of `sources` and package them.

    With `class_folders`, a ZIP has a folder for each class. `arrays` are the names of the arrays to
    return with each image: `z`, `w`. Raises Problem (422), and the errors of RequestExecution.run.
    """
    check_jpeg_metadata(sources, output)
    state = state_of(request)
    records = [_record(model, source, class_folders=class_folders) for source in sources]
    response_headers = responses.source_headers(model, sources)
    async with request_execution(state.engine, request, state.settings.deadline_s) as execution:
        cache = execution.style_cache(model)
        returned: dict[str, Array] = {}
        if "z" in arrays:
            returned["z"] = feeds(sources, model.manifest)["z"]
        if "w" in arrays:
            plan = style_plan(model.manifest, sources, cache)
            returned["w"] = await execution.execute(model, plan, lambda w: w)
            sources = [
                LatentSource(w=w, transform=source.transform)
                for w, source in zip(returned["w"], sources, strict=True)
            ]
        if returned:
            records = [
                replace(record, arrays={name: values[i] for name, values in returned.items()})
                for i, record in enumerate(records)
            ]
        return await execution.execute(
            model,
            image_plan(model.manifest, sources, cache),
            lambda pixels: responses.image_response(
                model, records, pixels, output, response_headers
            ),
        )


def _check_returned_arrays(body: GenerateRequest, model: Model, output: OutputFormat) -> None:
    """Raise Problem (422) if `return` contains an array that cannot be returned."""
    if body.return_ and output.container not in ("json", "zip"):
        raise invalid("return", "requires the format json or zip")
    if "z" in body.return_ and (body.w or any(image.w is not None for image in body.images or [])):
        raise invalid("return", "a source given as w has no z")
    if "w" in body.return_ and model.manifest.styles is None:
        raise invalid("return", f"{model.manifest.name} has no styles, so there is no w to return")


def check_jpeg_metadata(sources: Sequence[LatentSource], output: OutputFormat) -> None:
    """Raise Problem (422) if the styles of an image do not fit into the metadata of a JPEG."""
    if output.image is not ImageFormat.JPEG or output.container == "npy":
        return
    if any(len(encode_floats(s.w)) > _MAX_JPEG_STYLES for s in sources if s.w is not None):
        raise invalid("format", "w is too large for the metadata of a JPEG; use png or webp")


def _record(model: Model, source: LatentSource, *, class_folders: bool) -> ImageRecord:
    folder = ""
    if class_folders and source.classes:
        folder = _class_folder(source.classes, model.manifest.classes)
    return ImageRecord(source.parameters(model.manifest), source.name, folder)


def _class_folder(classes: ClassWeights, names: Sequence[str]) -> str:
    """Return a valid folder name for a class or a blend."""
    if len(classes) == 1:
        text = names[next(iter(classes))]
    else:
        text = "_".join(f"{names[index]}-{weight:.3g}" for index, weight in classes.items())
    return shortened(re.sub(r"[^\w.-]+", "-", text).lstrip(".") or "-") + "/"
