"""Answers that middleware gives by itself, before any route has been asked."""

from __future__ import annotations

import asyncio
import contextlib

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from service.api.problem_formats import respond
from service.api.problems import Problem

# How long a refused client may go on sending before its connection is closed. Closing at once would
# reset it, and many clients then never see the answer.
_LINGER_S = 2.0


async def refuse(problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with `problem`, though the body has not been read; what comes of it is thrown away."""
    response = respond(scope["path"], problem)
    if not _has_body(scope):
        await response(scope, receive, send)
        return
    # The rest of a body of any length would otherwise be taken for the sake of the next request.
    response.headers["connection"] = "close"
    await send(
        {
            "type": "http.response.start",
            "status": response.status_code,
            "headers": response.raw_headers,
        }
    )
    body = b"" if scope["method"] == "HEAD" else bytes(response.body)
    # The client has the whole answer now; only the connection waits for its end.
    await send({"type": "http.response.body", "body": body, "more_body": True})
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_S):
            while (message := await receive())["type"] == "http.request":
                if not message.get("more_body", False):
                    break
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _has_body(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
