"""Responses of Server-Sent Events (HTML Living Standard, section 9.2).

FastAPI formats the events. Its own response class keeps a connection alive only for routes that are
generators, and those cannot report an error by the status code.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack
from typing import Any

import anyio
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from service.api import request_context
from service.api.middleware.access_log import REASON_BY_STATUS
from service.api.middleware.errors import unexpected_problem
from service.api.problems import Problem, to_problem
from service.api.responses import StreamedResponse

MEDIA_TYPE = "text/event-stream"
# Proxies close connections that are silent for longer: 60 s is a common limit.
KEEP_ALIVE_S = 15.0
# nginx collects a response in a buffer unless it is told not to.
_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


def encode_event(
    data: Mapping[str, Any],
    event: str | None = None,
    id: str | None = None,  # noqa: A002 - the field's name in the standard
    retry_ms: int | None = None,
) -> bytes:
    """Return one event with `data` as JSON, which is one line.

    A client that reconnects sends the last `id` as Last-Event-ID, and waits for `retry_ms` first.
    `event` and `id` must be single lines.
    """
    return format_sse_event(data_str=json.dumps(data), event=event, id=id, retry=retry_ms)


def event_response(
    events: AsyncGenerator[bytes, None],
    headers: Mapping[str, str] | None = None,
    held: AsyncExitStack | None = None,
) -> StreamedResponse:
    """Return the response that sends `events`, and comments while there are none.

    `events` and `held` are closed when the response ends, also if the client disconnects.
    """
    stream = kept_alive(events)
    return StreamedResponse(stream, {**_HEADERS, **(headers or {})}, MEDIA_TYPE, held)


async def kept_alive(
    events: AsyncGenerator[bytes, None], seconds: float = KEEP_ALIVE_S
) -> AsyncGenerator[bytes, None]:
    """Yield `events`, and a comment whenever none has come for `seconds`."""
    upcoming: asyncio.Future[bytes] | None = None
    try:
        while True:
            upcoming = asyncio.ensure_future(anext(events))
            while not (await asyncio.wait([upcoming], timeout=seconds))[0]:
                yield KEEPALIVE_COMMENT
            try:
                event = upcoming.result()
            except StopAsyncIteration:
                return
            yield event
    finally:
        # After a disconnect, every other wait of this task would be cancelled, too.
        with anyio.CancelScope(shield=True):
            if upcoming is not None and not upcoming.done():
                upcoming.cancel()
                # A generator that is running cannot be closed.
                await asyncio.wait([upcoming])
            await events.aclose()


def stream_problem(error: Exception, method: str, path: str) -> Problem:
    """Return the problem that ends a stream, recorded for the log and the metrics.

    The status is already sent.
    """
    problem = to_problem(error) or unexpected_problem(method, path)
    reason = problem.rejection or REASON_BY_STATUS.get(problem.status)
    if reason is not None:
        request_context.note_rejection(reason)
    return problem
