"""`POST /v1/generate`: images from seeds, latents or styles."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace

from fastapi import APIRouter, Request
from fastapi.responses import Response

from service.api import responses
from service.api.execution import request_execution
from service.api.middleware.json_bodies import body_size, process
from service.api.negotiation import OutputFormat, accept_header, negotiate, with_credentials
from service.api.problems import invalid
from service.api.responses import ImageRecord
from service.api.routes.text.prompts import encode_prompts
from service.api.schemas.fields import selection_value, transform_value
from service.api.schemas.generate import GenerateRequest, GenerateResponse, SourcesRequest
from service.api.state import state_of
from service.runtime import requests
from service.runtime.files import shortened
from service.runtime.generation import (
    Plan,
    SelectedImages,
    StyleLookup,
    image_plan,
    selection_plan,
    style_plan,
)
from service.runtime.images.encoding import ImageFormat
from service.runtime.latent.sources import ClassWeights, LatentSource, encode_floats, feeds
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import Array
from service.runtime.ranking import Selection

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
    selection = requests.image_selection(
        model.manifest,
        selection_value(body.rank),
        seeds=body.seeds,
        z=body.z,
        w=body.w,
        images=body.images,
        transform=body.transform,
    )
    max_images = state.settings.max_images
    # A random seed must leave room for the candidates.
    first = None if selection is None else requests.first_seed(body.seed, max_images)
    sources = await process(
        body_size(request), lambda: listed_sources(body, model, max_images, first)
    )
    output = negotiate(body.format, accept_header(request), len(sources))
    output = with_credentials(output, body.c2pa, state)
    _check_returned_arrays(body, model, output)
    if selection is not None:
        return await selection_response(
            request, model, sources, selection, output, arrays=body.return_
        )
    return await generate_response(request, model, sources, output, arrays=body.return_)


def listed_sources(
    body: SourcesRequest, model: Model, max_images: int, first_seed: int | None = None
) -> list[LatentSource]:
    """Return the source of each image. Raises InvalidRequest.

    `first_seed` replaces a missing seed of the body.
    """
    return requests.generate_sources(
        model.manifest,
        max_images=max_images,
        n=body.n,
        seed=body.seed if first_seed is None else first_seed,
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
        if model.manifest.text_input is not None:
            sources, prompt_headers = await encode_prompts(execution, state, model, sources)
            response_headers |= prompt_headers
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
        # A preview of audio takes longer than its samples tell.
        is_preview = model.manifest.audio is not None and output.audio is None
        return await execution.execute(
            model,
            image_plan(model.manifest, sources, cache),
            lambda pixels: responses.image_response(
                model, records, pixels, output, response_headers
            ),
            long=output.signed or is_preview,
        )


async def selection_response(
    request: Request,
    model: Model,
    sources: Sequence[LatentSource],
    selection: Selection,
    output: OutputFormat,
    *,
    class_folders: bool = False,
    arrays: Sequence[str] = (),
) -> Response:
    """Generate candidates for the images of `sources`, which have consecutive seeds, and package
    those that are kept.

    The options are those of `generate_response`. The candidates count toward the limits: all of
    them have to fit into one request, into the queue and into the rate limit. Raises InvalidRequest
    and the errors of RequestExecution.run.
    """
    state = state_of(request)
    manifest, first = model.manifest, sources[0].seed
    assert first is not None  # noqa: S101 - a selection excludes other sources
    groups = requests.selection_candidates(sources, selection, first, state.settings.max_images)

    def plan(cache: StyleLookup) -> Plan[tuple[SelectedImages, dict[str, Array]]]:
        selected = yield from selection_plan(manifest, groups, selection)
        returned: dict[str, Array] = {}
        if "z" in arrays:
            returned["z"] = feeds(selected.sources, manifest)["z"]
        if "w" in arrays:
            returned["w"] = yield from style_plan(manifest, selected.sources, cache)
        return selected, returned

    def respond(result: tuple[SelectedImages, dict[str, Array]]) -> Response:
        selected, returned = result
        scores = [float(score) for score in selected.scores]
        records = [
            replace(
                _record(model, source, class_folders=class_folders),
                # NaN is not JSON.
                fields={"score": scores[i] if math.isfinite(scores[i]) else None},
                arrays={name: values[i] for name, values in returned.items()},
            )
            for i, source in enumerate(selected.sources)
        ]
        response_headers = {
            **responses.source_headers(model, selected.sources),
            **responses.headers(
                model,
                score=[f"{score:.6g}" for score in scores],
                candidates=[f"{first}-{groups[-1].seeds.stop - 1}"],
            ),
        }
        return responses.image_response(model, records, selected.pixels, output, response_headers)

    async with request_execution(state.engine, request, state.settings.deadline_s) as execution:
        # Only the candidates may be refused by a full queue: after them, most work is done.
        return await execution.execute(
            model,
            plan(execution.style_cache(model)),
            respond,
            wait_after_first=True,
            long=output.signed,
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
