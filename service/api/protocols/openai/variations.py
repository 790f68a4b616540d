"""`POST /v1/images/variations`: images of a generator that are like a given one.

The image's latent is found by the encoder of the model. For a model without one, the nearest of its
own samples takes the place of the image. Each variation is a step from there toward a seed, on the
path that `/v1/interpolate` takes by default. The response says which of the two methods was used.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response

from service.api import responses
from service.api.execution import RequestExecution, request_execution
from service.api.image_forms import UploadedFile, read_upload, upload_schema
from service.api.problems import invalid
from service.api.protocols.openai.images import (
    Output,
    OutputImage,
    images_response,
    memory_for,
    read_output,
    require_inline,
)
from service.api.protocols.openai.schemas import ERRORS, ImagesResponse, ImageVariationRequest
from service.api.routes.latent.invert import fitted_upload, reserved_pixels
from service.api.state import ServiceState, state_of
from service.runtime import latent_requests, requests
from service.runtime.generation import image_plan, inversion_plan, inversion_rows, walk_plan
from service.runtime.images.encoding import Pixels
from service.runtime.latent.interpolation import Interpolation, Place
from service.runtime.latent.inversion import peak_signal_to_noise
from service.runtime.latent.neighbors import nearest, sample_classes, sample_count, thumbnails
from service.runtime.latent.seeds import MAX_SEED
from service.runtime.latent.sources import LatentSource
from service.runtime.models.model import Model
from service.runtime.request_fields import SourceParser, index_or_name
from service.runtime.scheduling.errors import JobTooLarge

router = APIRouter(tags=["images"])

_FORM = {
    "type": "object",
    "required": ["model", "image"],
    "properties": {
        "model": {"type": "string"},
        "image": {"type": "string", "format": "binary"},
        "n": {"type": "integer"},
        "size": {"type": "string"},
        "output_format": {"type": "string", "enum": ["png", "jpeg", "webp"]},
        "response_format": {"type": "string", "enum": ["b64_json"]},
        "seed": {"type": "integer"},
        "strength": {"type": "number"},
        "class": {"type": "string"},
        "c2pa": {"type": "boolean"},
    },
}


@dataclass(frozen=True)
class _Start:
    """Where the variations start: a latent, and how it was found."""

    source: LatentSource
    found: dict[str, Any]


@router.post(
    "/v1/images/variations",
    summary="Make variations of an image, for OpenAI's SDK",
    response_model=ImagesResponse,
    responses=ERRORS,
    openapi_extra=upload_schema(ImageVariationRequest, _FORM),
)
async def variations(request: Request) -> Response:
    """Generate images that are like the given one."""
    state = state_of(request)
    upload = await read_upload(request, ImageVariationRequest, ("image",), 1)
    body, files = upload.body, upload.files["image"]
    model = state.find_model(body.model)
    output = read_output(body, model, state)
    require_inline(body, "a variation has no address, because its latent is no seed")
    if not files:
        raise invalid("image", "missing: send one image")
    count, maximum = body.n or 1, state.settings.max_images
    if count > maximum:
        raise invalid("n", f"expected 1 to {maximum}, got {count}")
    class_index = _class_index(body, model)
    has_encoder = model.manifest.encoder is not None
    classes = _tried_classes(body, model, maximum) if has_encoder else []
    pixels = 2 * max(len(classes), 1) * model.manifest.image_spec.pixels
    with memory_for(state, output, count), reserved_pixels(state.upload_pixels, pixels):
        async with request_execution(state.engine, request, state.settings.deadline_s) as execution:
            added = output.resampled_pixels(count)
            samples = _SampleSearch(model, class_index, execution, state)
            rows = inversion_rows(model.manifest, 1, len(classes)) if has_encoder else samples.rows
            # For all passes at once, so that the rate limit cannot interrupt the request.
            execution.reserve_pixels((rows + count) * model.manifest.image_spec.pixels + added)
            digest, image = await _decoded(execution, model, files[0], state)
            try:
                if has_encoder:
                    start = await _inverted(execution, model, image, classes)
                else:
                    start = await samples.nearest(image)
                images = await _varied(execution, output, body, count, start, digest)
            except JobTooLarge as error:
                raise invalid("n", f"the request is larger than the queue: {error}") from error
            execution.charge_resampled(added)
    found = {**start.found, "strength": body.strength}
    headers = responses.headers(
        model,
        variation=[start.found["method"]],
        seed=[image.fields["seed"] for image in images],
        input=[digest],
    )
    return images_response(output, images, headers, variation=found)


def _class_index(body: ImageVariationRequest, model: Model) -> int | None:
    """Return the class of the request. Raises InvalidRequest."""
    if body.class_ is None:
        return None
    value = body.class_
    if isinstance(value, str):
        value = index_or_name(value, model.manifest.classes)
    return SourceParser(model.manifest).class_index(value, "class")


def _tried_classes(body: ImageVariationRequest, model: Model, maximum: int) -> list[int]:
    """Return the classes that the inversion tries. Raises InvalidRequest."""
    # A latent w includes its class, so none is tried; the class is that of the seeds alone.
    class_ = body.class_ if model.manifest.styles is None else None
    return latent_requests.inversion_classes(
        model.manifest, class_=class_, images=1, max_images=maximum
    )


async def _decoded(
    execution: RequestExecution, model: Model, file: UploadedFile, state: ServiceState
) -> tuple[str, Pixels]:
    """Return the digest of an upload, and its pixels in the model's size. Raises Problem (422)."""
    decode = partial(fitted_upload, model, file, "refuse", state)
    digest, fitted = await execution.in_thread(decode, state.decoders)
    return digest, fitted.pixels


async def _inverted(
    execution: RequestExecution, model: Model, image: Pixels, classes: list[int]
) -> _Start:
    """Return the latent that the encoder finds. Raises InversionFailed."""
    plan = inversion_plan(model.manifest, image[None], classes)
    (found,) = await execution.execute(
        model, plan, lambda inversions: inversions, wait_after_first=True
    )
    return _Start(found.source, {"method": "inversion", "psnr": found.psnr})


class _SampleSearch:
    """Finds the nearest sample of a model. Samples that are not in the cache are generated.

    If the deadline passes, those that are finished stay in the cache for the next request.
    """

    def __init__(
        self,
        model: Model,
        class_index: int | None,
        execution: RequestExecution,
        state: ServiceState,
    ) -> None:
        self._model, self._execution, self._cache = model, execution, state.samples
        self._classes = sample_classes(model.manifest, class_index)
        self._key = (model.digest, class_index)
        count = sample_count(model.manifest)
        room = max(1, state.settings.queue_pixels // 4 // model.manifest.image_spec.pixels)
        size = min(2 * model.plan.workers * model.plan.max_rows, room)
        self._parts = [range(start, min(start + size, count)) for start in range(0, count, size)]

    @property
    def rows(self) -> int:
        """How many samples have to be generated."""
        return sum(len(part) for part in self._parts if self._cached(part) is None)

    async def nearest(self, image: Pixels) -> _Start:
        """Return the nearest sample to an image ``[H, W, C]`` of the model's size."""
        found: list[Pixels] = []
        for part in self._parts:
            made = self._cached(part)
            if made is None:
                made = await self._generated(part)
            found.append(made)
        index, error = nearest(np.concatenate(found), image)
        (source,) = self._sources(range(index, index + 1))
        details: dict[str, Any] = {
            "method": "nearest-seed",
            "psnr": peak_signal_to_noise(error),
            "nearest": source.parameters(self._model.manifest),
            "samples": sum(map(len, found)),
        }
        return _Start(source, details)

    def _cached(self, part: range) -> Pixels | None:
        return self._cache.get((*self._key, part))

    async def _generated(self, part: range) -> Pixels:
        model = self._model
        sources = self._sources(part)

        async def generate() -> Pixels:
            plan = image_plan(model.manifest, sources)
            return await self._execution.execute(model, plan, thumbnails)

        # A full queue refuses the first part; later, most of the work is done.
        is_first = part.start == 0
        made = await (generate() if is_first else self._execution.wait_for_queue(generate))
        self._cache.put((*self._key, part), made)
        return made

    def _sources(self, seeds: range) -> list[LatentSource]:
        classes = None if self._classes is None else [self._classes[seed] for seed in seeds]
        return requests.generate_sources(
            self._model.manifest, max_images=len(seeds), seeds=list(seeds), class_=classes
        )


async def _varied(
    execution: RequestExecution,
    output: Output,
    body: ImageVariationRequest,
    count: int,
    start: _Start,
    digest: str,
) -> list[OutputImage]:
    """Return the images between the start and each seed. Raises Problem (422)."""
    model = output.model
    manifest = model.manifest
    first = int(digest[:8], 16) if body.seed is None else body.seed
    seeds = [(first + i) % (MAX_SEED + 1) for i in range(count)]
    classes = start.source.classes
    ends = requests.generate_sources(
        manifest,
        max_images=count,
        seeds=seeds,
        # A latent w includes its class: then the class of the request applies.
        class_=_class_index(body, model) if classes is None else next(iter(classes)),
    )
    has_styles = manifest.styles is not None
    walk = Interpolation(
        (start.source, *ends),
        frames=count + 1,
        loop=False,
        space="w" if has_styles else "z",
        path="linear" if has_styles else "spherical",
    )
    places: list[Place] = [(0, i + 1, body.strength) for i in range(count)]
    variation = {"method": start.found["method"], "input": digest}

    def encode(images: Pixels) -> list[OutputImage]:
        return [
            output.encode(
                pixels,
                walk.place_parameters(place, manifest) | {"variation": variation},
                {"seed": seed},
            )
            for pixels, place, seed in zip(images, places, seeds, strict=True)
        ]

    return await execution.execute(
        model,
        walk_plan(manifest, walk, places),
        encode,
        wait_after_first=True,
        long=output.takes_long,
    )
