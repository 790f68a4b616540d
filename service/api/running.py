"""A request's way through the engine: submit, wait, give up when nobody waits any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from fastapi import Request

from service.api.errors import Problem
from service.runtime.engine import Engine
from service.runtime.model import Model
from service.runtime.scheduler import Array, DeadlineExceeded

T = TypeVar("T")


async def generate(
    engine: Engine, request: Request, model: Model, seeds: Sequence[int], seconds: float
) -> Array:
    """Return the pictures ``[N, H, W, C] uint8`` of `seeds`.

    After `seconds`, or when the client has gone, the job is cancelled and what is left of it is
    not done. Raises what Engine.submit raises, DeadlineExceeded, and Problem for a client gone.
    """
    job = engine.submit(model, seeds, engine.clock() + seconds)
    outputs = asyncio.wrap_future(job.future)
    gone = asyncio.ensure_future(_disconnected(request))
    ends: set[asyncio.Future[Any]] = {outputs, gone}
    try:
        await asyncio.wait(ends, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if outputs.done():
            return outputs.result()["pixels"]
        job.cancel()
        if gone.done():
            raise Problem(499, "client-gone", "The client has gone", "the connection was closed")
        raise DeadlineExceeded(f"the pictures were not made in {seconds:g} s")
    finally:
        gone.cancel()
        if not outputs.done():
            job.cancel()
            # Whatever the job still ends with, nobody is there to hear it.
            outputs.add_done_callback(lambda ended: ended.cancelled() or ended.exception())


async def in_encoder(engine: Engine, work: Callable[[], T]) -> T:
    """Run `work` in the encoders' pool, away from the event loop."""
    return await asyncio.get_running_loop().run_in_executor(engine.encoders, work)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
