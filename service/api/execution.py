"""A request's way through the engine: submit, wait, encode; give up when nobody waits any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import numpy as np
from fastapi import Request

from service import tracing
from service.api import request_context
from service.api.metrics import Cache, record_cache_lookups
from service.api.middleware.authentication import get_caller
from service.api.middleware.limits import deadline_seconds
from service.api.problems import Problem, client_disconnected
from service.api.rate_limits import PixelAccount
from service.runtime.latent.sources import LatentSource, feeds, transform_feed
from service.runtime.models.manifest import GENERATOR, MAPPING, SYNTHESIS
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import Array
from service.runtime.scheduling.batches import InferenceJob, Rows
from service.runtime.scheduling.engine import Engine
from service.runtime.scheduling.scheduler import DeadlineExceeded

T = TypeVar("T")

# For so long after a request has come nobody looks whether its client is still there: that takes a
# task, and most answers are on their way before.
_UNWATCHED_S = 0.25


@asynccontextmanager
async def request_execution(
    engine: Engine, request: Request, seconds: float
) -> AsyncIterator[RequestExecution]:
    """Watch over all that is run for `request` in the block, for `seconds` at most, or for less
    where the request says so. Raises NotReady, and Problem (400) where it says what is no time.
    """
    seconds = deadline_seconds(request, seconds)
    account = PixelAccount(get_caller(request).rate_limit)
    with engine.permit():
        run = RequestExecution(engine, request, seconds, account)
        try:
            yield run
        finally:
            run.close()
            account.close()


class RequestExecution:
    """What is run for one request, in one step or several: one deadline, and one client to lose."""

    def __init__(
        self, engine: Engine, request: Request, seconds: float, account: PixelAccount
    ) -> None:
        self._engine = engine
        self._account = account
        self._request = request
        # Ends when the client has gone, from when on that is looked for.
        self._gone: asyncio.Future[None] | None = None
        self._seconds = seconds
        now = engine.clock()
        self._watched_from = now + _UNWATCHED_S
        self._deadline = now + seconds

    def close(self) -> None:
        """Look no more for whether the client has gone."""
        if self._gone is not None:
            self._gone.cancel()

    async def through(
        self,
        model: Model,
        role: str,
        feeds: Rows,
        work: Callable[[Rows], T],
        ran: Callable[[int, float], None] = lambda *_: None,
    ) -> T:
        """Run `feeds` by `role` and return what `work` makes of the outputs, off the event loop.

        `ran` is told how many rows there were and the seconds that they took, without what they
        waited before.

        Past the deadline, or when the client has gone, the job is cancelled and what is left of it
        is not done. Raises what Engine.submit raises, DeadlineExceeded, and Problem for a client
        gone, or one that has used up its allowance.
        """
        # Styles are no pictures yet, and cost nothing.
        per_row = 0 if role == MAPPING else model.pixels_per_row(role, feeds)
        pixels = len(next(iter(feeds.values()))) * per_row
        self._account.charge(pixels)
        job: InferenceJob | None = None
        try:
            job = self._engine.submit(model, feeds, self._deadline, role)
            outcome = await self._outcome(job, role, work)
        except (DeadlineExceeded, Problem, asyncio.CancelledError):
            # The client's own doing, as likely as not: what was begun for it is paid.
            begun = job.started_rows * per_row if job else 0
            self._account.refund(pixels - begun)
            raise
        except BaseException:
            self._account.refund(pixels)
            raise
        if job.times.started is not None and job.times.ended is not None:
            ran(job.rows, job.times.ended - job.times.started)
        return outcome

    async def _outcome(self, job: InferenceJob, role: str, work: Callable[[Rows], T]) -> T:
        working = self._engine.encode(job, work)
        try:
            return await self._wait(working)
        finally:
            if not working.done() or working.cancelled():
                self._engine.cancel(job)
            this, tracer = request_context.current(), tracing.current()
            if tracer is not None and this is not None and this.span is not None:
                tracer.add_job_spans(this.span, job, role, self._engine.clock)

    async def pictures(
        self, model: Model, sources: Sequence[LatentSource], work: Callable[[Rows], T]
    ) -> T:
        """Make the pictures of `sources` and return what `work` makes of the outputs.

        Raises what `through` raises.
        """
        moved = transform_feed(sources, model.manifest)
        if all(source.w is None for source in sources):
            given = feeds(sources, model.manifest) | moved
            return await self.through(model, GENERATOR, given, work)
        w = await self.styles(model, sources)
        return await self.through(model, SYNTHESIS, {"w": w, **moved}, work)

    async def styles(self, model: Model, sources: Sequence[LatentSource]) -> Array:
        """Return the styles ``[N, layers, w_dim]`` of `sources`. Each distinct one that is not in
        the engine's cache is mapped, once. Raises what `through` raises.
        """
        cache = self._engine.styles
        found: dict[Hashable, Array] = {}
        missing: dict[Hashable, LatentSource] = {}
        hits = 0
        for source in sources:
            if source.w is not None:
                found[source.key] = source.w
            elif source.key not in found and source.key not in missing:
                styles = cache.get((model.digest, source.key))
                if styles is None:
                    missing[source.key] = source
                else:
                    found[source.key] = styles
                    hits += 1
        record_cache_lookups(Cache.STYLES, hits=hits, lookups=hits + len(missing))
        if missing:
            given = feeds(list(missing.values()), model.manifest)
            mapped = await self.through(model, MAPPING, given, lambda outputs: outputs["w"])
            for key, styles in zip(missing, mapped, strict=True):
                cache.put((model.digest, key), styles)
                found[key] = styles
        return np.stack([found[source.key] for source in sources])

    def reserve(self, model: Model, pictures: int) -> None:
        """Take what `pictures` cost from the client's allowance now, for an answer that leaves in
        parts. Raises Problem (429, 422).
        """
        self._account.reserve(pictures * model.manifest.image.pixels)

    def renew(self) -> None:
        """Begin the deadline anew, for an answer that leaves in parts."""
        self._deadline = self._engine.clock() + self._seconds

    def assert_in_time(self) -> None:
        """Raise DeadlineExceeded when the deadline has passed."""
        if self._engine.clock() >= self._deadline:
            raise self._late()

    def _late(self) -> DeadlineExceeded:
        return DeadlineExceeded(f"the pictures were not made in {self._seconds:g} s")

    async def _wait(self, future: Future[T]) -> T:
        outcome = asyncio.wrap_future(future)
        now = self._engine.clock()
        unwatched = min(self._watched_from, self._deadline) - now
        if unwatched > 0:
            await asyncio.wait([outcome], timeout=unwatched)
            now = self._engine.clock()
        if not outcome.done():
            if self._gone is None:
                self._gone = asyncio.ensure_future(_disconnected(self._request))
            ends: set[asyncio.Future[Any]] = {outcome, self._gone}
            left = max(self._deadline - now, 0.0)
            await asyncio.wait(ends, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if outcome.done():
            return outcome.result()
        # Cancels what waits in a pool; what it still ends with, nobody is there to hear.
        outcome.cancel()
        if self._gone is not None and self._gone.done():
            raise client_disconnected()
        raise self._late()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
