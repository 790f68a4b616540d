"""`POST /v1/interpolate`: a walk through latent space, whose frames leave as they are made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from fastapi.responses import Response, StreamingResponse

from service.api import request_parsing, responses
from service.api.execution import RequestExecution, request_execution
from service.api.negotiation import negotiate_animation
from service.api.schemas import InterpolateRequest
from service.runtime.images.animation import WRITERS, AnimationSpec, AnimationWriter
from service.runtime.latent.interpolation import Interpolation
from service.runtime.models.manifest import GENERATOR, SYNTHESIS
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import Array
from service.runtime.scheduling.batches import Rows
from service.runtime.scheduling.engine import Engine
from service.runtime.scheduling.scheduler import QueueFull
from service.settings import Settings

# How long to wait at most for room in the queue before asking again, in seconds.
_ASK_AGAIN_S = 0.5
_ANSWERS = {
    200: {
        "content": {
            writer.media_type: {"schema": {"type": "string", "format": "binary"}}  # type: ignore[attr-defined]
            for writer in WRITERS.values()
        }
    },
    **responses.PROBLEMS,
}


def router(engine: Engine, settings: Settings, find: Callable[[str], Model]) -> APIRouter:
    """Return the routes; `find` gives the loaded model of a name."""
    routes = APIRouter(tags=["generate"])

    @routes.post(
        "/v1/interpolate",
        summary="A walk through latent space, as an animation or frame by frame",
        response_class=Response,
        responses=_ANSWERS,
    )
    async def interpolate(
        body: InterpolateRequest,
        request: Request,
        accept: Annotated[str | None, Header()] = None,
    ) -> Response:
        model = find(body.model)
        walk = request_parsing.to_interpolate(body, model, settings.max_frames)
        kind = negotiate_animation(body.format, accept)
        async with AsyncExitStack() as stack:
            run = await stack.enter_async_context(
                request_execution(engine, request, settings.deadline_s)
            )
            # The whole walk, so that it does not end in the middle of its way.
            run.reserve(model, walk.frames)
            film = _Film(model, walk, kind, body.fps)
            parts = film.parts(run, settings.queue_pixels)
            # Whatever is wrong shows before the first byte, while an error can still be said.
            first = await anext(parts)
            staying = stack.pop_all()

        async def stream() -> AsyncIterator[bytes]:
            async with staying:
                yield first
                async for part in parts:
                    yield part

        headers = film.headers()
        return StreamingResponse(stream(), 200, headers, film.writer.media_type)

    return routes


class _Film:
    """One walk on its way out."""

    def __init__(self, model: Model, walk: Interpolation, kind: str, fps: float) -> None:
        self._model = model
        self._walk = walk
        manifest = model.manifest
        identity = responses.identity(model)
        image = manifest.image
        self.writer: AnimationWriter = WRITERS[kind](
            AnimationSpec(
                frames=walk.frames,
                height=image.height,
                width=image.width,
                channels=image.channels,
                fps=fps,
                provenance=identity | {"walk": walk.parameters(manifest), "fps": fps},
                frame_provenance=lambda i: identity | walk.frame_parameters(i, manifest),
            )
        )

    def headers(self) -> dict[str, str]:
        """Return the headers of the answer."""
        walk = self._walk
        said: dict[str, Any] = {
            "sources": [responses.short(source) for source in walk.keys],
            "frames": [walk.frames],
            "space": [walk.space],
            "path": [walk.path],
        }
        return responses.headers(self._model, **said) | {
            "content-disposition": f'inline; filename="walk.{self.writer.extension}"'
        }

    async def parts(self, run: RequestExecution, queue_pixels: int) -> AsyncIterator[bytes]:
        """Yield the file. While one part waits for the client, the next is being made."""
        w = await run.styles(self._model, self._walk.keys) if self._walk.space == "w" else None
        # Few enough to leave the queue to others, and enough to fill batches.
        plan, image = self._model.plan, self._model.manifest.image
        at_once = max(1, min(2 * plan.workers * plan.max_rows, queue_pixels // 4 // image.pixels))
        chunks = [
            range(start, min(start + at_once, self._walk.frames))
            for start in range(0, self._walk.frames, at_once)
        ]
        making: asyncio.Task[list[bytes]] | None = None
        try:
            encoded = await self._made(run, chunks[0], w)
            begun = self.writer.begin()
            for i in range(len(chunks)):
                if i + 1 < len(chunks):
                    making = asyncio.create_task(
                        self._made_when_there_is_room(run, chunks[i + 1], w)
                    )
                yield begun + b"".join(self.writer.add(each) for each in encoded)
                begun = b""
                if making is not None:
                    encoded, making = await making, None
            yield self.writer.end()
        finally:
            if making is not None:
                making.cancel()

    async def _made_when_there_is_room(
        self, run: RequestExecution, frames: Sequence[int], w: Array | None
    ) -> list[bytes]:
        """Make the next frames; the deadline is theirs alone, for the walk has begun to leave."""
        run.renew()
        while True:
            try:
                return await self._made(run, frames, w)
            except QueueFull as full:
                run.assert_in_time()
                await asyncio.sleep(min(full.retry_after, _ASK_AGAIN_S))

    async def _made(
        self, run: RequestExecution, frames: Sequence[int], w: Array | None
    ) -> list[bytes]:
        def encode(outputs: Rows) -> list[bytes]:
            return [
                self.writer.encode(frame, pixels)
                for frame, pixels in zip(frames, outputs["pixels"], strict=True)
            ]

        if w is None:
            feeds = self._walk.feeds(frames, self._model.manifest)
            return await run.through(self._model, GENERATOR, feeds, encode)
        return await run.through(
            self._model, SYNTHESIS, {"w": self._walk.styles(w, frames)}, encode
        )
