"""`POST /v1/sample-classes`: class-conditional sampling."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from service.api import responses
from service.api.negotiation import accept_header, negotiate, with_credentials
from service.api.routes.generate import generate_response, selection_response
from service.api.schemas.fields import selection_value
from service.api.schemas.generate import GenerateResponse
from service.api.schemas.sample_classes import SampleClassesRequest
from service.api.state import state_of
from service.runtime import requests

router = APIRouter(tags=["generate"])


@router.post(
    "/v1/sample-classes",
    summary="Generate images by class",
    response_model=GenerateResponse,
    responses=responses.IMAGE_RESPONSES,
)
async def sample_classes(body: SampleClassesRequest, request: Request) -> Response:
    """Generate a number of images of each class, or of a blend of classes."""
    state = state_of(request)
    model = state.find_model(body.model)
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
    output = negotiate(body.format, accept_header(request), len(sources))
    output = with_credentials(output, body.c2pa, state)
    if selection is not None:
        return await selection_response(
            request, model, sources, selection, output, class_folders=True
        )
    return await generate_response(request, model, sources, output, class_folders=True)
