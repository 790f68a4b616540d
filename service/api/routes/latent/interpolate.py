"""`POST /v1/interpolate`: interpolation in latent space, streamed frame by frame."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial

from fastapi import APIRouter, Request
from fastapi.responses import Response

from service.api import responses
from service.api.execution import RequestExecution, request_execution
from service.api.middleware.json_bodies import body_size, process
from service.api.negotiation import accept_header, negotiate_animation
from service.api.schemas.fields import source_fields
from service.api.schemas.interpolate import InterpolateRequest
from service.api.state import ServiceState, state_of
from service.runtime import requests
from service.runtime.generation import frame_plan, style_plan
from service.runtime.images.animation import WRITERS, AnimationWriter
from service.runtime.images.encoding import Pixels
from service.runtime.latent.interpolation import Interpolation
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import Array
from service.runtime.video.animation import VIDEO_WRITERS
from service.runtime.video.containers import CONTAINERS
from service.runtime.video.walk_output import WalkOutput, walk_output

router = APIRouter(tags=["generate"])

# Pixels that a heavy writer gets at a time, so that it takes about a second.
_HEAVY_PIXELS = 2**24

_RESPONSES = {
    200: {
        "content": {
            media_type: {"schema": {"type": "string", "format": "binary"}}
            for media_type in [
                *(writer.media_type for writer in WRITERS.values()),  # type: ignore[attr-defined]
                *(CONTAINERS[name].media_type for name in VIDEO_WRITERS),
            ]
        }
    },
    **responses.PROBLEMS,
}


@router.post(
    "/v1/interpolate",
    summary="Interpolate in latent space, as an animation or frame by frame",
    response_class=Response,
    responses=_RESPONSES,
)
async def interpolate(body: InterpolateRequest, request: Request) -> Response:
    """Stream the frames of an interpolation from source to source."""
    state = state_of(request)
    model = state.find_model(body.model)
    walk = await process(
        body_size(request),
        lambda: requests.interpolation(
            model.manifest,
            max_frames=state.settings.max_frames,
            sources=source_fields(body.sources),
            frames=body.frames,
            loop=body.loop,
            space=body.space,
            path=body.path,
            class_=body.class_,
            truncation=body.truncation,
        ),
    )
    output = walk_output(
        model.manifest,
        negotiate_animation(body.format, accept_header(request)),
        fps=body.fps,
        scale=body.scale,
        filter_=body.filter,
        quality=body.quality,
    )
    writer = output.writer(output.spec(model.manifest, walk, responses.identity(model)))
    async with AsyncExitStack() as stack:
        execution = await stack.enter_async_context(
            request_execution(state.engine, request, state.settings.deadline_s)
        )
        # For all frames at once, so that the rate limit cannot interrupt the response.
        execution.reserve(model, walk.frames)
        parts = _parts(execution, model, walk, output, writer, state)
        stack.push_async_callback(parts.aclose)
        # Errors up to this point can be reported by the status code.
        first = await anext(parts)

        async def stream() -> AsyncGenerator[bytes, None]:
            yield first
            async for part in parts:
                yield part

        headers = _headers(model, walk, writer)
        return responses.StreamedResponse(stream(), headers, writer.media_type, stack.pop_all())


def _headers(model: Model, walk: Interpolation, writer: AnimationWriter) -> dict[str, str]:
    return responses.headers(
        model,
        sources=[responses.source_label(source) for source in walk.keys],
        frames=[walk.frames],
        space=[walk.space],
        path=[walk.path],
    ) | {"content-disposition": f'inline; filename="walk.{writer.extension}"'}


async def _parts(
    execution: RequestExecution,
    model: Model,
    walk: Interpolation,
    output: WalkOutput,
    writer: AnimationWriter,
    state: ServiceState,
) -> AsyncGenerator[bytes, None]:
    """Yield the file in parts. The next part is generated while the client receives one."""
    w: Array | None = None
    if walk.space == "w":
        plan = style_plan(model.manifest, walk.keys, execution.style_cache(model))
        w = await execution.execute(model, plan, lambda styles: styles)
    # Small enough to leave room in the queue for other requests, large enough to fill batches.
    pixels_per_frame = model.manifest.image_spec.pixels * output.scale**2
    limit = state.settings.queue_pixels // 4 // pixels_per_frame
    if writer.heavy:
        limit = min(limit, _HEAVY_PIXELS // pixels_per_frame)
    size = max(1, min(2 * model.plan.workers * model.plan.max_rows, limit))
    chunks = [range(first, min(first + size, walk.frames)) for first in range(0, walk.frames, size)]

    async def encoded_frames(frames: Sequence[int]) -> list[bytes]:
        def encode(pixels: Pixels) -> list[bytes]:
            return [
                writer.encode(frame, output.enlarge(image))
                for frame, image in zip(frames, pixels, strict=True)
            ]

        positions = [walk.position(frame) for frame in frames]
        return await execution.execute(
            model, frame_plan(model.manifest, walk, positions, w), encode
        )

    async def written(write: Callable[[], bytes]) -> bytes:
        return await execution.in_thread(write, state.decoders) if writer.heavy else write()

    def begin_and_add(frames: Sequence[bytes], *, is_first: bool) -> bytes:
        return (writer.begin() if is_first else b"") + b"".join(map(writer.add, frames))

    async def later_frames(frames: Sequence[int]) -> list[bytes]:
        # Each part has its own deadline, because the response has already started.
        execution.renew_deadline()
        return await execution.wait_for_queue(lambda: encoded_frames(frames))

    upcoming: asyncio.Task[list[bytes]] | None = None
    try:
        encoded = await encoded_frames(chunks[0])
        for i in range(len(chunks)):
            if i + 1 < len(chunks):
                upcoming = asyncio.create_task(later_frames(chunks[i + 1]))
            yield await written(partial(begin_and_add, encoded, is_first=i == 0))
            if upcoming is not None:
                encoded, upcoming = await upcoming, None
        execution.renew_deadline()
        yield await written(writer.end)
    finally:
        if upcoming is not None:
            upcoming.cancel()
