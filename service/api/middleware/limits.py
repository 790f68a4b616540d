"""Limits on what a client may send: the size, the depth and the time of a body, and its deadline.

A body is counted as it comes, whatever its Content-Length says, and is refused as soon as it is too
much. JSON is looked at before it is parsed: the parsers fail on what is nested deeply, each at
another depth and in another way.
"""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

import numpy as np
from fastapi import Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.middleware.early_responses import send_problem
from service.api.problems import Problem
from service.settings import Settings

DEADLINE_HEADER = "X-Deadline-Ms"
# Arrays and objects in JSON, however they lie: each costs the parser a hundred times its two bytes.
# More than the sources of ten thousand pictures, a style for each layer, have.
MAX_JSON_CONTAINERS = 2**18

# Below this, packed bodies are read, each route within bounds of its own.
_UNPACKED = "/v2/"

# What stays of JSON for its depth to be seen.
_STRUCTURE = b'"[]{}'
_REST = bytes(set(range(256)) - set(_STRUCTURE))
_STEPS = np.zeros(256, np.int8)
_STEPS[list(b"[{")] = 1
_STEPS[list(b"]}")] = -1


class _Refused(Exception):
    """Ends the reading of a body; whatever becomes of it, the problem is what is answered."""


class BodyLimits:
    """ASGI middleware that refuses bodies that are too large, too deep or too slow."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._most = settings.max_body_bytes
        self._depth = settings.max_json_depth
        self._seconds = settings.body_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is within the limits."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        length = headers.get("content-length", "")
        # More digits than any length has; Python would not even read thousands of them.
        if length.isdecimal() and (len(length) > 15 or int(length) > self._most):
            await send_problem(self._too_large(), scope, receive, send)
            return
        encoding = headers.get("content-encoding", "").strip().lower()
        if encoding not in ("", "identity") and not scope["path"].startswith(_UNPACKED):
            await send_problem(_unknown_encoding(encoding), scope, receive, send)
            return
        body = _Body(receive, self._most, self._seconds)
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            if body.problem is not None and not started:
                # The application says in its own words that the body failed; ours say why.
                raise _Refused
            started = True
            await send(message)

        try:
            if _is_json(headers):
                await body.read_whole(self._depth)
            await self._app(scope, body.receive, watched)
        except _Refused:
            if body.problem is None or started:
                raise
            await send_problem(body.problem, scope, receive, send)

    def _too_large(self) -> Problem:
        return _too_large(self._most)


class _Body:
    """The body of one request on its way in. `problem` is why it was refused, if it was."""

    def __init__(self, receive: Receive, most: int, seconds: float) -> None:
        self.problem: Problem | None = None
        self._receive = receive
        self._most = most
        self._seconds = seconds
        self._until = asyncio.get_running_loop().time() + seconds
        self._size = 0
        self._complete = False
        self._read_already: Message | None = None

    async def receive(self) -> Message:
        """Return the next part; later, wait for the client to go. Raises _Refused."""
        if self._read_already is not None:
            message, self._read_already = self._read_already, None
            return message
        if self.problem is not None:
            raise _Refused
        if self._complete:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._receive()
        except TimeoutError:
            self._refuse(
                Problem(
                    408,
                    "body-too-slow",
                    "The body came too slowly",
                    f"the whole body must have come within {self._seconds:g} s",
                )
            )
        if message["type"] == "http.request":
            self._size += len(message.get("body", b""))
            if self._size > self._most:
                self._refuse(_too_large(self._most))
            self._complete = not message.get("more_body", False)
        return message

    async def read_whole(self, most_depth: int) -> None:
        """Read JSON to its end and look at its depth, for `receive` to give it on in one part."""
        parts = []
        while True:
            message = await self.receive()
            if message["type"] != "http.request":
                # The client has gone.
                self._read_already = message
                return
            parts.append(message.get("body", b""))
            if self._complete:
                break
        whole = b"".join(parts)
        if b"\0" in whole:
            # JSON's parser would take UTF-16 and UTF-32, whose depth nobody has looked at.
            self._refuse(
                Problem(
                    400,
                    "invalid-json",
                    "The body is not JSON",
                    "the body is not JSON: that is in UTF-8 (RFC 8259), and holds no byte 0",
                )
            )
        if whole.count(b"[") + whole.count(b"{") > MAX_JSON_CONTAINERS:
            self._refuse(
                Problem(
                    400,
                    "json-too-many-parts",
                    "The JSON has too many parts",
                    f"at most {MAX_JSON_CONTAINERS:,} arrays and objects are read",
                )
            )
        if is_nested_deeper(whole, most_depth):
            self._refuse(
                Problem(
                    400,
                    "json-too-deep",
                    "The JSON is nested too deeply",
                    f"at most {most_depth} arrays and objects within each other are read",
                )
            )
        self._read_already = {"type": "http.request", "body": whole, "more_body": False}

    def _refuse(self, problem: Problem) -> None:
        self.problem = problem
        raise _Refused


def is_nested_deeper(text: bytes, most: int) -> bool:
    """Whether arrays and objects in JSON are nested more than `most` deep.

    Takes a few passes in C over the text and no more, whatever is in it; of what is no JSON it says
    anything.
    """
    if text.count(b"[") + text.count(b"{") <= most:
        return False
    # What a backslash goes before cannot begin or end a string.
    plain = text.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _REST)
    codes = np.frombuffer(plain, np.uint8)
    inside = np.logical_xor.accumulate(codes == ord('"'))
    steps = np.where(inside, 0, _STEPS[codes])
    return bool(np.cumsum(steps, dtype=np.int32).max(initial=0) > most)


def deadline_seconds(request: Request, most_seconds: float) -> float:
    """Return the seconds that a request has: `most_seconds`, or less where it says so itself.

    Raises Problem (400) for an X-Deadline-Ms that is not a positive integer.
    """
    text = request.headers.get(DEADLINE_HEADER)
    if text is None:
        return most_seconds
    if not (text.isascii() and text.isdigit() and text.strip("0")):
        raise Problem(
            400,
            "invalid-header",
            "A header cannot be used",
            f"{DEADLINE_HEADER}: expected a positive integer of milliseconds, got {text[:50]!r}",
            errors=[{"field": DEADLINE_HEADER, "message": "expected a positive integer"}],
        )
    return most_seconds if len(text) > 15 else min(int(text) / 1000, most_seconds)


def describe(document: MutableMapping[str, Any], settings: Settings) -> None:
    """State in an OpenAPI document the limits, the keys and the headers that are in force."""
    keys = (
        "Every path needs a key, but for " + ", ".join(f"`{p}`" for p in settings.open_paths) + "."
        if settings.keys is not None and not settings.insecure
        else "No keys are asked for."
    )
    rate = (
        f"{settings.pixels_per_minute:,} pixels a minute for each client, unless its key says else"
        if settings.pixels_per_minute
        else "none but those of the keys"
    )
    rows = {
        "pictures in one request": f"{settings.max_images:,}",
        "frames of one walk": f"{settings.max_frames:,}",
        "body": f"{settings.max_body_bytes:,} bytes, within {settings.body_timeout_s:g} s",
        "request line and headers": f"{settings.max_header_bytes:,} bytes",
        "depth of JSON": str(settings.max_json_depth),
        "arrays and objects in JSON": f"{MAX_JSON_CONTAINERS:,}",
        "uploaded picture": f"{settings.max_upload_pixels:,} pixels",
        "time": f"{settings.deadline_s:g} s, or less by `{DEADLINE_HEADER}` (milliseconds)",
        "reading an answer": f"1 MiB in {settings.write_timeout_s:g} s",
        "pictures of one job": f"{settings.max_job_images:,}",
        "queue": f"{settings.queue_pixels:,} pixels of all clients",
        "rate": rate,
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    document["info"]["description"] = f"{keys}\n\n| limit | |\n|---|---|\n{table}"
    schemes = document.setdefault("components", {}).setdefault("securitySchemes", {})
    schemes["bearer"] = {"type": "http", "scheme": "bearer", "bearerFormat": "gnm_…"}
    schemes["key"] = {"type": "apiKey", "in": "header", "name": "X-API-Key"}
    needed: list[dict[str, list[str]]] = [{"bearer": []}, {"key": []}]
    asked = settings.keys is not None and not settings.insecure
    document["security"] = needed if asked else [{}, *needed]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if asked and path in settings.open_paths:
                operation["security"] = []
            if method == "post" or "{seed}" in path:
                operation.setdefault("parameters", []).append(_DEADLINE_PARAMETER)


_DEADLINE_PARAMETER = {
    "name": DEADLINE_HEADER,
    "in": "header",
    "required": False,
    "description": "Milliseconds after which the answer is of no use; past them comes 504.",
    "schema": {"type": "integer", "minimum": 1},
}


def _is_json(headers: Headers) -> bool:
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    return media_type == "application/json" or media_type.endswith("+json")


def _unknown_encoding(encoding: str) -> Problem:
    return Problem(
        415,
        "encoding-not-supported",
        "The encoding is not known",
        f"Content-Encoding is {encoding[:50]!r}; send the body as it is",
    )


def _too_large(most: int) -> Problem:
    return Problem(
        413, "body-too-large", "The body is too large", f"at most {most:,} bytes are taken"
    )
