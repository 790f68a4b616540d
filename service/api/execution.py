"""Runs the plans of a request through the scheduler: submit, wait, encode, or cancel.

A request has one deadline and one client. Past the deadline, or once the client has disconnected,
its jobs are cancelled and the remaining work is skipped.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Hashable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar, cast

import anyio
import anyio.to_thread
from fastapi import Request

from service import tracing
from service.api import request_context
from service.api.metrics import Cache, record_cache_lookups
from service.api.middleware.authentication import get_caller
from service.api.middleware.limits import deadline_seconds
from service.api.middleware.priority import request_priority
from service.api.problems import Problem, client_disconnected
from service.api.rate_limits import PixelAccount
from service.runtime.generation import Feeds, Finished, GraphRun, Plan, advance, start
from service.runtime.latent.style_cache import StyleCache
from service.runtime.models.model import Model
from service.runtime.models.parts.graphs import DISCRIMINATOR, MAPPING, TEXT_ENCODER
from service.runtime.onnx.sessions import Array
from service.runtime.scheduling.batches import InferenceJob, Priority
from service.runtime.scheduling.engine import Engine
from service.runtime.scheduling.errors import DeadlineExceeded, QueueFull

T = TypeVar("T")
R = TypeVar("R")

# Seconds until a task starts to watch for a disconnect. Most responses are sent earlier.
_UNWATCHED_S = 0.25
# Maximum seconds between two attempts to enter a full queue.
_QUEUE_RETRY_S = 0.5
# The roles of graphs that return no images.
_FREE_ROLES = (MAPPING, DISCRIMINATOR, TEXT_ENCODER)
# Jobs of each engine for which no worker has been woken yet, and the number from which one is.
_submitted: dict[Engine, int] = {}
_MAX_GATHERED = 64
# Calls in threads. The event loop itself does not keep tasks that nobody waits for.
_running: set[asyncio.Future[Any]] = set()


class request_execution:  # noqa: N801 - used like a function; its decorator would take 5 µs
    """Permit `request` to use the engine within the block.

    The deadline is in `seconds`, or earlier if the request's X-Deadline-Ms is shorter. `priority`
    replaces the request's X-Priority. At the end of the block, reserved pixels that were not
    charged are returned to the rate limit. Raises NotReady, and Problem: 400 for an invalid
    deadline or priority, 403 for a priority that the caller may not ask for.
    """

    def __init__(
        self, engine: Engine, request: Request, seconds: float, priority: Priority | None = None
    ) -> None:
        self._engine = engine
        self._request = request
        self._seconds = deadline_seconds(request, seconds)
        self._priority = request_priority(request, priority)

    async def __aenter__(self) -> RequestExecution:
        self._account = PixelAccount(get_caller(self._request).rate_limit)
        self._engine.acquire_permit()
        self._execution = RequestExecution(
            self._engine, self._request, self._seconds, self._account, self._priority
        )
        return self._execution

    async def __aexit__(self, *_: object) -> None:
        try:
            self._execution.close()
            self._account.close()
        finally:
            self._engine.release_permit()


class RequestExecution:
    """The graph runs of one request, with their common deadline, client and rate limit."""

    def __init__(
        self,
        engine: Engine,
        request: Request,
        seconds: float,
        account: PixelAccount,
        priority: Priority,
    ) -> None:
        self._engine = engine
        self._account = account
        self._priority = priority
        self._request = request
        # Ends when the client disconnects; None until the watch starts.
        self._disconnected: asyncio.Future[None] | None = None
        self._seconds = seconds
        now = engine.clock()
        self._watched_from = now + _UNWATCHED_S
        self._deadline = now + seconds

    def close(self) -> None:
        """Stop watching for a disconnect."""
        if self._disconnected is not None:
            self._disconnected.cancel()

    async def execute(
        self,
        model: Model,
        plan: Plan[T],
        finish: Callable[[T], R],
        *,
        after_run: Callable[[int, float], None] = lambda *_: None,
        pause: Callable[[], Awaitable[None]] | None = None,
        wait_after_first: bool = False,
        long: bool = False,
    ) -> R:
        """Run the graphs of `plan`, call `finish` with its result, and return the output.

        The plan and `finish` continue off the event loop, in the engine's encoders, as soon as the
        outputs of a run are available. `after_run` is called with the rows and seconds of each run
        except the last, and then `pause` is awaited before the next run. With `wait_after_first`, a
        full queue fails the first run only; later runs wait for room. `long` states that `finish`
        takes long even for small images, so that it is never called in the thread of the event
        loop.

        Raises the errors of `run`.
        """

        def proceed(outputs: Feeds) -> GraphRun | Finished[R]:
            following = advance(plan, outputs)
            if isinstance(following, GraphRun):
                return following
            return Finished(finish(following.result))

        timings: list[tuple[int, float]] = []

        def note(rows: int, seconds: float) -> None:
            timings.append((rows, seconds))

        begun = start(plan)
        if isinstance(begun, Finished):
            return finish(begun.result)
        step: GraphRun | Finished[R] = await self.run(model, begun, proceed, note, long=long)
        while isinstance(step, GraphRun):
            after_run(*timings[-1])
            if pause is not None:
                await pause()
            current = step
            if wait_after_first:
                step = await self.wait_for_queue(
                    lambda: self.run(model, current, proceed, note, long=long)  # noqa: B023 - awaited at once
                )
            else:
                step = await self.run(model, current, proceed, note, long=long)
        return step.result

    async def run(
        self,
        model: Model,
        graph_run: GraphRun,
        work: Callable[[Feeds], T],
        observe: Callable[[int, float], None] = lambda *_: None,
        *,
        long: bool = False,
    ) -> T:
        """Run one graph and return ``work(outputs)``, computed off the event loop.

        `observe` is called with the number of rows and the seconds of inference, without the time
        in the queue. The pixels are charged to the rate limit. After a missed deadline or a
        disconnect, only the rows that have started stay charged; after other errors, none.

        Raises the errors of Engine.submit, DeadlineExceeded, and Problem if the client has
        disconnected or its rate limit is exceeded.
        """
        role, feeds = graph_run.role, graph_run.feeds
        # Styles and scores are not images and are free.
        per_row = 0 if role in _FREE_ROLES else model.pixels_per_row(role, feeds)
        pixels = graph_run.rows * per_row
        self._account.charge(pixels)
        job: InferenceJob | None = None
        try:
            job = self._engine.submit(
                model, feeds, self._deadline, role, priority=self._priority, wake=False
            )
            _wake_soon(self._engine)
            outcome = await self._outcome(job, role, work, long=long)
        except (DeadlineExceeded, Problem, asyncio.CancelledError):
            # Most likely caused by the client, so rows that have started are charged.
            begun = job.started_rows * per_row if job else 0
            self._account.refund(pixels - begun)
            raise
        except BaseException:
            self._account.refund(pixels)
            raise
        if job.times.started is not None and job.times.ended is not None:
            observe(job.rows, job.times.ended - job.times.started)
        return outcome

    async def in_thread(self, function: Callable[[], T], limiter: anyio.CapacityLimiter) -> T:
        """Return ``function()``, called in a thread of `limiter`.

        Waiting for a thread counts toward the deadline. Past it, a call that has not begun is
        skipped; one that has begun keeps its thread until it ends, but nobody waits for it.

        Raises the errors of `function`, DeadlineExceeded, and Problem if the client has
        disconnected.
        """
        skip = threading.Event()

        def call() -> T | None:
            return None if skip.is_set() else function()

        task = asyncio.ensure_future(anyio.to_thread.run_sync(call, limiter=limiter))
        _running.add(task)
        task.add_done_callback(_forget)
        try:
            # Not cancelled: the limiter would count a thread as free that is still running.
            return cast("T", await self._first(task))
        except BaseException:
            skip.set()
            raise

    async def wait_for_queue(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Repeat `attempt` while the queue is full.

        Raises DeadlineExceeded past the deadline, and the other errors of `attempt`.
        """
        while True:
            try:
                return await attempt()
            except QueueFull as full:
                if self._engine.clock() >= self._deadline:
                    raise self._late() from full
                await asyncio.sleep(min(full.retry_after, _QUEUE_RETRY_S))

    def style_cache(self, model: Model) -> _ModelStyles:
        """Return the engine's style cache for `model`."""
        return _ModelStyles(self._engine.styles, model.digest)

    def reserve(self, model: Model, images: int) -> None:
        """Reserve the pixels of `images` in the rate limit, for work in several runs or parts.

        Raises Problem (429, 422).
        """
        self.reserve_pixels(images * model.manifest.image_spec.pixels)

    def reserve_pixels(self, pixels: int) -> None:
        """Reserve pixels in the rate limit. Raises Problem (429, 422)."""
        self._account.reserve(pixels)

    def charge_resampled(self, pixels: int) -> None:
        """Charge pixels that no graph has computed, once they are delivered.

        Raises Problem (429, 422) unless they are reserved.
        """
        self._account.charge(pixels)

    def renew_deadline(self) -> None:
        """Restart the deadline, for the next part of a response."""
        self._deadline = self._engine.clock() + self._seconds

    async def _outcome(
        self, job: InferenceJob, role: str, work: Callable[[Feeds], T], *, long: bool
    ) -> T:
        working = self._engine.encode(job, work, long=long)
        try:
            return await self._wait(working)
        except BaseException:
            # Cancels work that still waits in a pool; the result of work that runs is dropped.
            working.cancel()
            if not working.done() or working.cancelled():
                self._engine.cancel(job)
            raise
        finally:
            if (tracer := tracing.current()) is not None:
                current = request_context.current()
                if current is not None and current.span is not None:
                    tracer.add_job_spans(current.span, job, role, self._engine.clock)

    def _late(self) -> DeadlineExceeded:
        return DeadlineExceeded(f"the output was not finished within {self._seconds:g} s")

    async def _wait(self, working: Future[T]) -> T:
        # Most work is done by then.
        await _done_within(working, self._seconds_unwatched())
        if working.done():
            return working.result()
        return await self._first(asyncio.wrap_future(working))

    async def _first(self, outcome: asyncio.Future[T]) -> T:
        """Return the result of `outcome` if it comes before the deadline and a disconnect.

        Raises DeadlineExceeded, and Problem if the client has disconnected.
        """
        if (unwatched := self._seconds_unwatched()) > 0:
            await asyncio.wait([outcome], timeout=unwatched)
        if not outcome.done():
            if self._disconnected is None:
                self._disconnected = asyncio.ensure_future(_disconnect(self._request))
            ends: set[asyncio.Future[Any]] = {outcome, self._disconnected}
            left = max(self._deadline - self._engine.clock(), 0.0)
            await asyncio.wait(ends, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if outcome.done():
            return outcome.result()
        if self._disconnected is not None and self._disconnected.done():
            raise client_disconnected()
        raise self._late()

    def _seconds_unwatched(self) -> float:
        """Return the seconds until a disconnect is watched for, or the deadline passes."""
        return min(self._watched_from, self._deadline) - self._engine.clock()


class _ModelStyles:
    """The cached styles of one model; counts hits and misses."""

    def __init__(self, cache: StyleCache, digest: str) -> None:
        self._cache = cache
        self._digest = digest

    def get_many(self, keys: Sequence[Hashable]) -> dict[Hashable, Array]:
        """Return the cached styles by key; missing keys are left out."""
        cached = {key: self._cache.get((self._digest, key)) for key in keys}
        hits = {key: styles for key, styles in cached.items() if styles is not None}
        record_cache_lookups(Cache.STYLES, hits=len(hits), lookups=len(keys))
        return hits

    def put(self, key: Hashable, styles: Array) -> None:
        """Add styles to the cache."""
        self._cache.put((self._digest, key), styles)


async def _done_within(future: Future[Any], seconds: float) -> None:
    """Wait until `future` is done, for at most `seconds`.

    Takes a third of the time of `asyncio.wrap_future` and `asyncio.wait`, and does not wake the
    event loop if its own thread resolves the future.
    """
    loop, thread = asyncio.get_running_loop(), threading.get_ident()
    waiter = loop.create_future()

    def wake(_: Future[Any]) -> None:
        if threading.get_ident() == thread:
            _end_wait(waiter)
        elif not loop.is_closed():
            loop.call_soon_threadsafe(_end_wait, waiter)

    timer = loop.call_later(max(seconds, 0.0), _end_wait, waiter)
    future.add_done_callback(wake)
    try:
        await waiter
    finally:
        timer.cancel()


def _end_wait(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _wake_soon(engine: Engine) -> None:
    """Run a batch, or wake a worker, once the requests that arrive together have been read, so that
    their jobs share a batch.
    """
    first = engine not in _submitted
    _submitted[engine] = _submitted.get(engine, 0) + 1
    if first:
        asyncio.get_running_loop().call_soon(_gather, engine, 0)


def _gather(engine: Engine, before: int) -> None:
    """Wait for another iteration of the event loop if the last one has submitted jobs.

    There were `before` jobs in all before it. Reading a request takes longer than sending it, so
    further ones may have arrived in the meantime.
    """
    if before < _submitted[engine] < _MAX_GATHERED:
        asyncio.get_running_loop().call_soon(_gather, engine, _submitted[engine])
        return
    del _submitted[engine]
    ran = False
    try:
        ran = engine.run_short_batch()
    finally:
        # After an error as well: the rows that wait must not wait for the next request.
        if ran:
            # There may be rows for another batch.
            _wake_soon(engine)
        else:
            engine.wake()


def _forget(task: asyncio.Future[Any]) -> None:
    _running.discard(task)
    if not task.cancelled():
        # Marks the error as seen, which asyncio would log otherwise.
        task.exception()


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
