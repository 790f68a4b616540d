"""A request's way through the engine: submit, wait, encode; give up when nobody waits any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from fastapi import Request

from service.api.errors import Problem
from service.runtime.engine import Engine
from service.runtime.model import Model
from service.runtime.scheduler import Array, DeadlineExceeded

T = TypeVar("T")


async def generate(
    engine: Engine,
    request: Request,
    model: Model,
    seeds: Sequence[int],
    classes: Sequence[int] | None,
    seconds: float,
    encode: Callable[[Array], T],
) -> T:
    """Make the pictures ``[N, H, W, C] uint8`` of `seeds` and return what `encode` makes of them.

    `classes` are indices, one for each seed, or None.

    After `seconds`, or when the client has gone, the job is cancelled and what is left of it is
    not done. Raises what Engine.submit raises, DeadlineExceeded, and Problem for a client gone.
    """
    deadline = engine.clock() + seconds
    job = engine.submit(model, seeds, classes, deadline)
    gone = asyncio.ensure_future(_disconnected(request))
    handed_on = False

    async def wait(future: Future[Any]) -> Any:
        outcome = asyncio.wrap_future(future)
        ends: set[asyncio.Future[Any]] = {outcome, gone}
        left = max(deadline - engine.clock(), 0.0)
        await asyncio.wait(ends, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if outcome.done():
            return outcome.result()
        # Cancels what waits in a pool; what it still ends with, nobody is there to hear.
        outcome.cancel()
        if gone.done():
            raise Problem(499, "client-gone", "The client has gone", "the connection was closed")
        raise DeadlineExceeded(f"the pictures were not made in {seconds:g} s")

    try:
        pixels = (await wait(job.future))["pixels"]
        encoding = engine.encode(job, lambda: encode(pixels))
        handed_on = True
        result: T = await wait(encoding)
        return result
    finally:
        gone.cancel()
        if not handed_on:
            engine.abandon(job)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
