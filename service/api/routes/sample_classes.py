"""`POST /v1/sample-classes`: class-conditional sampling."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from service.api import responses
from service.api.negotiation import (
    OutputFormat,
    accept_header,
    negotiate,
    negotiate_audio,
    with_credentials,
)
from service.api.problems import invalid
from service.api.routes.generate import generate_response, selection_response
from service.api.schemas.audio import AudioResponse
from service.api.schemas.fields import selection_value
from service.api.schemas.generate import GenerateResponse
from service.api.schemas.sample_classes import SampleClassesRequest
from service.api.state import state_of
from service.runtime import requests
from service.runtime.models.model import Model

router = APIRouter(tags=["generate"])


@router.post(
    "/v1/sample-classes",
    summary="Generate images or audio by class",
    response_model=GenerateResponse | AudioResponse,
    responses={**responses.AUDIO_RESPONSES, **responses.IMAGE_RESPONSES},
)
async def sample_classes(body: SampleClassesRequest, request: Request) -> Response:
    """Generate a number of images of each class, or of a blend of classes."""
    state = state_of(request)
    model = state.find_model(body.model, "generate", "audio")
    max_images = state.settings.max_images
    selection = requests.image_selection(model.manifest, selection_value(body.rank))
    sources = requests.class_sources(
        model.manifest,
        max_images=max_images,
        classes=body.classes,
        per_class=body.per_class,
        blend=body.blend,
        n=body.n,
        seed=body.seed if selection is None else requests.first_seed(body.seed, max_images),
        truncation=body.truncation,
    )
    output = _output(body, request, model, len(sources))
    if selection is not None:
        return await selection_response(
            request, model, sources, selection, output, class_folders=True
        )
    return await generate_response(request, model, sources, output, class_folders=True)


def _output(body: SampleClassesRequest, request: Request, model: Model, count: int) -> OutputFormat:
    """Choose the format of images or audio. Raises Problem (406, 422)."""
    requested, accept = body.format, accept_header(request)
    if model.manifest.audio is not None:
        if requested == "jpeg" or requested == "webp":  # noqa: PLR1714 - narrows the type
            raise invalid("format", "the model returns audio; use wav, flac, png, npy, zip or json")
        if body.c2pa:
            raise invalid("c2pa", "only images can hold Content Credentials")
        return negotiate_audio(requested, accept, count)
    if requested == "wav" or requested == "flac":  # noqa: PLR1714 - narrows the type
        raise invalid("format", "the model returns images; use png, jpeg, webp, npy, zip or json")
    return with_credentials(negotiate(requested, accept, count), body.c2pa, state_of(request))
