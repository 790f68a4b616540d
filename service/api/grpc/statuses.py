"""The gRPC status of a response: the one table that assigns a code to an HTTP status."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from grpc import StatusCode

# Statuses of problems; all others are INTERNAL.
CODES = {
    400: StatusCode.INVALID_ARGUMENT,
    401: StatusCode.UNAUTHENTICATED,
    403: StatusCode.PERMISSION_DENIED,
    404: StatusCode.NOT_FOUND,
    409: StatusCode.ABORTED,
    # The message is larger than allowed.
    413: StatusCode.RESOURCE_EXHAUSTED,
    415: StatusCode.INVALID_ARGUMENT,
    422: StatusCode.INVALID_ARGUMENT,
    429: StatusCode.RESOURCE_EXHAUSTED,
    499: StatusCode.CANCELLED,
    500: StatusCode.INTERNAL,
    503: StatusCode.UNAVAILABLE,
    504: StatusCode.DEADLINE_EXCEEDED,
}
PROBLEM_TYPE = "problem-type"
PROBLEM = "problem-bin"
# Read by the retry policies of gRPC's clients.
_RETRY_MS = "grpc-retry-pushback-ms"
# Headers that concern the body or the connection of HTTP.
_NOT_METADATA = {"content-type", "content-length", "connection", "transfer-encoding"}

Metadata = tuple[tuple[str, str | bytes], ...]


@dataclass(frozen=True)
class Outcome:
    """The response to one message: a message or an error.

    Attributes:
        message: the serialized response; empty for an error.
        detail: what went wrong; empty without an error.
        metadata: the response headers, and for an error `problem-type` and `problem-bin`, which is
            the problem document.
    """

    code: StatusCode
    message: bytes
    detail: str
    metadata: Metadata


def outcome(status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> Outcome:
    """Translate the response of the application."""
    named = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}
    metadata = tuple(
        (name, value)
        for name, value in named.items()
        if name not in _NOT_METADATA and value.isascii() and value.isprintable()
    )
    if status < 400:
        return Outcome(StatusCode.OK, body, "", metadata)
    problem: Mapping[str, str] = json.loads(body)
    more: list[tuple[str, str | bytes]] = [(PROBLEM_TYPE, problem["type"]), (PROBLEM, body)]
    if (retry_after := named.get("retry-after", "")).isdecimal():
        more.append((_RETRY_MS, str(math.ceil(float(retry_after) * 1000))))
    code = CODES.get(status, StatusCode.INTERNAL)
    return Outcome(code, b"", problem["detail"], (*metadata, *more))
