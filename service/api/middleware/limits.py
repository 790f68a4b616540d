"""Limits on requests: size, nesting depth and time of the body, and the deadline.

A body is counted as it arrives, regardless of its Content-Length, and is refused as soon as it
exceeds the limit. JSON is scanned before it is parsed, because parsers fail on deep nesting, at
different depths and with different errors.
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
from service.api.middleware.errors import BodyRefused
from service.api.problems import Problem
from service.settings import Settings

DEADLINE_HEADER = "X-Deadline-Ms"
# Maximum arrays and objects in JSON, at any depth: each takes two bytes of text, but a hundred
# times that in the parser.
# Enough for the latents of ten thousand images with a style for each layer.
MAX_JSON_CONTAINERS = 2**18

# Routes below this path accept compressed bodies, with limits of their own.
_COMPRESSED_PATHS = "/v2/"

# The characters of JSON that determine its depth.
_STRUCTURE = b'"[]{}'
_OTHER_CHARACTERS = bytes(set(range(256)) - set(_STRUCTURE))
_DEPTH_CHANGE = np.zeros(256, np.int8)
_DEPTH_CHANGE[list(b"[{")] = 1
_DEPTH_CHANGE[list(b"]}")] = -1


class BodyLimits:
    """ASGI middleware that refuses bodies that are too large, nested too deeply or too slow."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._max_bytes = settings.max_body_bytes
        self._max_depth = settings.max_json_depth
        self._timeout_s = settings.body_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or respond 400, 408, 413 or 415."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        length = headers.get("content-length", "")
        # Python refuses to parse thousands of digits, so count them first.
        if length.isdecimal() and (len(length) > 15 or int(length) > self._max_bytes):
            await send_problem(_too_large(self._max_bytes), scope, receive, send)
            return
        encoding = headers.get("content-encoding", "").strip().lower()
        if encoding not in ("", "identity") and not scope["path"].startswith(_COMPRESSED_PATHS):
            await send_problem(_unsupported_encoding(encoding), scope, receive, send)
            return
        body = _LimitedBody(receive, self._max_bytes, self._timeout_s)
        started = False

        async def send_unless_refused(message: Message) -> None:
            nonlocal started
            if body.problem is not None and not started:
                # The application only reports that reading failed; `problem` has the reason.
                raise BodyRefused
            started = True
            await send(message)

        try:
            if _is_json(headers):
                await body.read_json(self._max_depth)
            await self._app(scope, body.receive, send_unless_refused)
        except BodyRefused:
            if body.problem is None or started:
                raise
            await send_problem(body.problem, scope, receive, send)


class _LimitedBody:
    """The body of one request, as it arrives. `problem` is the reason if it is refused."""

    def __init__(self, receive: Receive, max_bytes: int, timeout_s: float) -> None:
        self.problem: Problem | None = None
        self._receive = receive
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._deadline = asyncio.get_running_loop().time() + timeout_s
        self._size = 0
        self._complete = False
        # A message that `read_json` has received and `receive` returns next.
        self._pending: Message | None = None

    async def receive(self) -> Message:
        """Return the next part; after the last part, wait for a disconnect. Raises BodyRefused."""
        if self._pending is not None:
            message, self._pending = self._pending, None
            return message
        if self.problem is not None:
            raise BodyRefused
        if self._complete:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            self._refuse(
                Problem(
                    408,
                    "body-too-slow",
                    "The body arrived too slowly",
                    f"the whole body must arrive within {self._timeout_s:g} s",
                )
            )
        if message["type"] == "http.request":
            self._size += len(message.get("body", b""))
            if self._size > self._max_bytes:
                self._refuse(_too_large(self._max_bytes))
            self._complete = not message.get("more_body", False)
        return message

    async def read_json(self, max_depth: int) -> None:
        """Read a JSON body to its end and check it. `receive` then returns it in one part.

        Raises BodyRefused.
        """
        parts = []
        while True:
            message = await self.receive()
            if message["type"] != "http.request":
                # The client has disconnected.
                self._pending = message
                return
            parts.append(message.get("body", b""))
            if self._complete:
                break
        text = b"".join(parts)
        if b"\0" in text:
            # The parser accepts UTF-16 and UTF-32, whose depth is not checked here.
            self._refuse(
                Problem(
                    400,
                    "invalid-json",
                    "The body is not JSON",
                    "the body has a zero byte; JSON must be UTF-8 (RFC 8259)",
                )
            )
        if text.count(b"[") + text.count(b"{") > MAX_JSON_CONTAINERS:
            self._refuse(
                Problem(
                    400,
                    "json-too-many-parts",
                    "The JSON has too many arrays and objects",
                    f"the body may have up to {MAX_JSON_CONTAINERS:,} arrays and objects",
                )
            )
        if is_nested_deeper(text, max_depth):
            self._refuse(
                Problem(
                    400,
                    "json-too-deep",
                    "The JSON is nested too deeply",
                    f"arrays and objects may be nested up to {max_depth} deep",
                )
            )
        self._pending = {"type": "http.request", "body": text, "more_body": False}

    def _refuse(self, problem: Problem) -> None:
        self.problem = problem
        raise BodyRefused


def is_nested_deeper(text: bytes, max_depth: int) -> bool:
    """Return True if arrays and objects in JSON are nested more than `max_depth` deep.

    Takes a few passes over the text in C, whatever it contains. If the text is not JSON, the result
    is arbitrary.
    """
    if text.count(b"[") + text.count(b"{") <= max_depth:
        return False
    # An escaped quotation mark does not begin or end a string.
    structure = text.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _OTHER_CHARACTERS)
    codes = np.frombuffer(structure, np.uint8)
    in_string = np.logical_xor.accumulate(codes == ord('"'))
    changes = np.where(in_string, 0, _DEPTH_CHANGE[codes])
    return bool(np.cumsum(changes, dtype=np.int32).max(initial=0) > max_depth)


def deadline_seconds(request: Request, max_seconds: float) -> float:
    """Return the time in seconds that a request has: its X-Deadline-Ms, at most `max_seconds`.

    Raises Problem (400) for an X-Deadline-Ms that is not a positive integer.
    """
    text = request.headers.get(DEADLINE_HEADER)
    if text is None:
        return max_seconds
    if not (text.isascii() and text.isdigit() and text.strip("0")):
        raise Problem(
            400,
            "invalid-header",
            "A header is invalid",
            f"{DEADLINE_HEADER}: expected a positive integer of milliseconds, got {text[:50]!r}",
            errors=[{"field": DEADLINE_HEADER, "message": "expected a positive integer"}],
        )
    return max_seconds if len(text) > 15 else min(int(text) / 1000, max_seconds)


def describe(document: MutableMapping[str, Any], settings: Settings) -> None:
    """Add limits, security schemes and the deadline header to an OpenAPI document."""
    open_paths = ", ".join(f"`{path}`" for path in settings.open_paths)
    keys = (
        f"Every path requires an API key, except {open_paths}."
        if settings.requires_keys
        else "No API key is required."
    )
    rate = (
        f"{settings.pixels_per_minute:,} pixels per minute for each client, unless its key has "
        "another limit"
        if settings.pixels_per_minute
        else "none, except for keys with a limit"
    )
    rows = {
        "images per request": f"{settings.max_images:,}",
        "frames per interpolation": f"{settings.max_frames:,}",
        "body": f"{settings.max_body_bytes:,} bytes, within {settings.body_timeout_s:g} s",
        "request line and headers": f"{settings.max_header_bytes:,} bytes",
        "nesting depth of JSON": str(settings.max_json_depth),
        "arrays and objects in JSON": f"{MAX_JSON_CONTAINERS:,}",
        "uploaded image": f"{settings.max_upload_pixels:,} pixels",
        "deadline": f"{settings.deadline_s:g} s, or less with `{DEADLINE_HEADER}` (milliseconds)",
        "reading a response": f"1 MiB per {settings.write_timeout_s:g} s",
        "images per job": f"{settings.max_job_images:,}",
        "queue": f"{settings.queue_pixels:,} pixels, for all clients",
        "rate": rate,
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    document["info"]["description"] = f"{keys}\n\n| limit | |\n|---|---|\n{table}"
    schemes = document.setdefault("components", {}).setdefault("securitySchemes", {})
    schemes["bearer"] = {"type": "http", "scheme": "bearer", "bearerFormat": "gnm_…"}
    schemes["key"] = {"type": "apiKey", "in": "header", "name": "X-API-Key"}
    alternatives: list[dict[str, list[str]]] = [{"bearer": []}, {"key": []}]
    document["security"] = alternatives if settings.requires_keys else [{}, *alternatives]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if settings.requires_keys and path in settings.open_paths:
                operation["security"] = []
            if method == "post" or "{seed}" in path:
                operation.setdefault("parameters", []).append(_DEADLINE_PARAMETER)


_DEADLINE_PARAMETER = {
    "name": DEADLINE_HEADER,
    "in": "header",
    "required": False,
    "description": "Deadline of the request in milliseconds; after it the response is a 504.",
    "schema": {"type": "integer", "minimum": 1},
}


def _is_json(headers: Headers) -> bool:
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    return media_type == "application/json" or media_type.endswith("+json")


def _unsupported_encoding(encoding: str) -> Problem:
    return Problem(
        415,
        "encoding-not-supported",
        "The encoding is not supported",
        f"Content-Encoding is {encoding[:50]!r}; send the body without one",
    )


def _too_large(max_bytes: int) -> Problem:
    return Problem(
        413, "body-too-large", "The body is too large", f"the limit is {max_bytes:,} bytes"
    )
