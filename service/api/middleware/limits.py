"""Limits on requests: size, nesting depth and time of the body, and the deadline.

A body is counted as it arrives, regardless of its Content-Length, and is refused as soon as it
exceeds the limit. The parts of JSON are counted before it is parsed (see `json_bodies`), because
parsers fail on deep nesting, at different depths and with different errors.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, MutableMapping
from typing import Any

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.middleware import priority
from service.api.middleware.early_responses import send_problem
from service.api.middleware.errors import BodyRefused
from service.api.middleware.json_bodies import (
    MAX_JSON_CONTAINERS,
    MAX_JSON_MEMBERS,
    MAX_JSON_VALUES,
    JsonLimits,
    assert_bounded,
    is_json,
    process,
)
from service.api.middleware.request_headers import request_headers
from service.api.problems import Problem
from service.settings import Settings

DEADLINE_HEADER = "X-Deadline-Ms"
_DEADLINE = DEADLINE_HEADER.lower()

# Routes below these paths run no graphs for their response.
_WITHOUT_PRIORITY = ("/v1/jobs", "/v1/admin", "/v2/repository")
# Routes below this path accept compressed bodies, with limits of their own.
_COMPRESSED_PATHS = "/v2/"
# The route that takes the images of a job as a form, and the bytes that must arrive in the time
# limit.
_JOBS_PATH = "/v1/jobs"
_UPLOAD_PACE = 2**20
# Values in the JSON of these routes, which have no strings in lists.
_MAX_TENSOR_VALUES = 2**21


class BodyLimits:
    """ASGI middleware that refuses bodies that are too large, nested too deeply or too slow."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._max_bytes = settings.max_body_bytes
        # The other parts of a form with the images of a job have the limit of other bodies.
        self._max_upload_bytes = self._max_bytes + settings.max_job_upload
        self._json_limits = JsonLimits(settings.max_json_depth)
        # Bounded by its size, which is smaller.
        self._tensor_limits = JsonLimits(settings.max_json_depth, values=_MAX_TENSOR_VALUES)
        self._timeout_s = settings.body_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or respond 400, 408, 413 or 415."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = request_headers(scope)
        length = headers.get("content-length", "")
        uploads = _is_job_upload(scope, headers)
        max_bytes = self._max_upload_bytes if uploads else self._max_bytes
        # Python refuses to parse thousands of digits, so count them first.
        if length.isdecimal() and (len(length) > 15 or int(length) > max_bytes):
            await send_problem(_too_large(max_bytes), scope, receive, send)
            return
        encoding = headers.get("content-encoding", "").strip().lower()
        if encoding not in ("", "identity") and not scope["path"].startswith(_COMPRESSED_PATHS):
            await send_problem(_unsupported_encoding(encoding), scope, receive, send)
            return
        pace = _UPLOAD_PACE if uploads else None
        body = _LimitedBody(receive, max_bytes, self._timeout_s, pace)
        started = False

        async def send_unless_refused(message: Message) -> None:
            nonlocal started
            if body.problem is not None and not started:
                # The application only reports that reading failed; `problem` has the reason.
                raise BodyRefused
            started = True
            await send(message)

        try:
            if is_json(headers):
                is_tensors = scope["path"].startswith(_COMPRESSED_PATHS)
                await body.read_json(self._tensor_limits if is_tensors else self._json_limits)
            await self._app(scope, body.receive, send_unless_refused)
        except BodyRefused:
            if body.problem is None or started:
                raise
            await send_problem(body.problem, scope, receive, send)


def _is_job_upload(scope: Scope, headers: Mapping[str, str]) -> bool:
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    return (
        scope["path"] == _JOBS_PATH
        and scope["method"] == "POST"
        and media_type == "multipart/form-data"
    )


class _LimitedBody:
    """The body of one request, as it arrives. `problem` is the reason if it is refused.

    With `pace`, so many bytes must arrive in the time limit, instead of the whole body.
    """

    def __init__(
        self, receive: Receive, max_bytes: int, timeout_s: float, pace: int | None = None
    ) -> None:
        self.problem: Problem | None = None
        self._receive = receive
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + timeout_s
        self._timed_out = False
        self._pace = pace
        self._size = self._size_at_renewal = 0
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
        # As `asyncio.timeout_at` does it, in a third of the time.
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a server calls this in a task
        timer = self._loop.call_at(self._deadline, self._time_out, task)
        cancelled_before = task.cancelling()
        try:
            message = await self._receive()
        except asyncio.CancelledError:
            if not self._timed_out or task.uncancel() > cancelled_before:
                raise
            least = "the whole body" if self._pace is None else f"{self._pace:,} bytes of the body"
            self._refuse(
                Problem(
                    408,
                    "body-too-slow",
                    "The body arrived too slowly",
                    f"{least} must arrive within {self._timeout_s:g} s",
                )
            )
        finally:
            timer.cancel()
        if message["type"] == "http.request":
            self._size += len(message.get("body", b""))
            if self._size > self._max_bytes:
                self._refuse(_too_large(self._max_bytes))
            self._complete = not message.get("more_body", False)
            if self._pace and self._size - self._size_at_renewal >= self._pace:
                self._size_at_renewal = self._size
                self._deadline = self._loop.time() + self._timeout_s
        return message

    async def read_json(self, limits: JsonLimits) -> None:
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
        try:
            await process(len(text), lambda: assert_bounded(text, limits))
        except Problem as problem:
            self._refuse(problem)
        self._pending = {"type": "http.request", "body": text, "more_body": False}

    def _time_out(self, task: asyncio.Task[Any]) -> None:
        self._timed_out = True
        task.cancel()

    def _refuse(self, problem: Problem) -> None:
        self.problem = problem
        raise BodyRefused


def deadline_seconds(request: Request, max_seconds: float) -> float:
    """Return the time in seconds that a request has: its X-Deadline-Ms, at most `max_seconds`.

    Raises Problem (400) for an X-Deadline-Ms that is not a positive integer.
    """
    text = request_headers(request.scope).get(_DEADLINE)
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
        "images, sounds or texts per request": f"{settings.max_images:,}",
        "frames per interpolation": f"{settings.max_frames:,}",
        "body": f"{settings.max_body_bytes:,} bytes, within {settings.body_timeout_s:g} s",
        "request line and headers": f"{settings.max_header_bytes:,} bytes",
        "nesting depth of JSON": str(settings.max_json_depth),
        "arrays and objects in JSON": f"{MAX_JSON_CONTAINERS:,}",
        "members of objects in JSON": f"{MAX_JSON_MEMBERS:,}",
        "values in JSON": f"{MAX_JSON_VALUES:,}",
        "uploaded image": f"{settings.max_upload_pixels:,} pixels",
        "deadline": f"{settings.deadline_s:g} s, or less with `{DEADLINE_HEADER}` (milliseconds)",
        "reading a response": f"1 MiB per {settings.write_timeout_s:g} s",
        "images per job": f"{settings.max_job_images:,}",
        "images uploaded for a job": f"{settings.max_job_upload:,} bytes, each MiB within "
        f"{settings.body_timeout_s:g} s",
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
                parameters = operation.setdefault("parameters", [])
                parameters.append(_DEADLINE_PARAMETER)
                if not path.startswith(_WITHOUT_PRIORITY):
                    parameters.append(priority.PARAMETER)


_DEADLINE_PARAMETER = {
    "name": DEADLINE_HEADER,
    "in": "header",
    "required": False,
    "description": "Deadline of the request in milliseconds; after it the response is a 504.",
    "schema": {"type": "integer", "minimum": 1},
}


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
