"""`POST /v1/text-to-image`: images from descriptions in words."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from service.api import responses
from service.api.middleware.json_bodies import body_size, process
from service.api.negotiation import accept_header, negotiate, with_credentials
from service.api.routes.generate import generate_response
from service.api.schemas.generate import GenerateResponse
from service.api.schemas.text import TextToImageRequest
from service.api.state import state_of
from service.runtime.text.requests import prompt_sources

router = APIRouter(tags=["generate"])


@router.post(
    "/v1/text-to-image",
    summary="Generate images from prompts",
    response_model=GenerateResponse,
    responses=responses.IMAGE_RESPONSES,
)
async def text_to_image(body: TextToImageRequest, request: Request) -> Response:
    """Generate images from one prompt or several, in one batch."""
    state = state_of(request)
    model = state.find_model(body.model, "text-to-image")
    sources = await process(
        body_size(request),
        lambda: prompt_sources(
            model.manifest,
            max_images=state.settings.max_images,
            prompt=body.prompt,
            n=body.n,
            seed=body.seed,
            seeds=body.seeds,
            truncation=body.truncation,
        ),
    )
    output = negotiate(body.format, accept_header(request), len(sources))
    output = with_credentials(output, body.c2pa, state)
    return await generate_response(request, model, sources, output)
