"""`POST /v1/audio`: audio from seeds or latents."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from service.api import responses
from service.api.middleware.json_bodies import body_size, process
from service.api.negotiation import accept_header, negotiate_audio
from service.api.routes.generate import generate_response
from service.api.schemas.audio import AudioRequest, AudioResponse
from service.api.state import state_of
from service.runtime import requests

router = APIRouter(tags=["audio"])


@router.post(
    "/v1/audio",
    summary="Generate audio from seeds",
    response_model=AudioResponse,
    responses=responses.AUDIO_RESPONSES,
)
async def audio(body: AudioRequest, request: Request) -> Response:
    """Generate audio from seeds or latents."""
    state = state_of(request)
    model = state.find_model(body.model, "audio")
    sources = await process(
        body_size(request),
        lambda: requests.generate_sources(
            model.manifest,
            max_images=state.settings.max_images,
            n=body.n,
            seed=body.seed,
            seeds=body.seeds,
            z=body.z,
            class_=body.class_,
            blend=body.blend,
            truncation=body.truncation,
        ),
    )
    output = negotiate_audio(body.format, accept_header(request), len(sources))
    return await generate_response(request, model, sources, output)
