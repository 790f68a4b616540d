"""Responses that middleware sends before a route is called."""

from __future__ import annotations

import asyncio
import contextlib

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from service.api.problem_formats import respond
from service.api.problems import Problem

# Seconds for which a refused client may continue to send its body. Closing the connection at once
# would reset it, and many clients would then never see the response.
_LINGER_S = 2.0


async def send_problem(problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
    """Respond with `problem` before the body has been read.

    Discards the body for up to two seconds, then the server closes the connection.
    """
    response = respond(scope["path"], problem)
    if not _has_body(scope):
        await response(scope, receive, send)
        return
    # Otherwise the server would read the rest of the body, however long, to find the next request.
    response.headers["connection"] = "close"
    await send(
        {
            "type": "http.response.start",
            "status": response.status_code,
            "headers": response.raw_headers,
        }
    )
    body = b"" if scope["method"] == "HEAD" else bytes(response.body)
    # The client now has the whole response. Only the connection stays open.
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
