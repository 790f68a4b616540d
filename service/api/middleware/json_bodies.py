"""Bounds and parses JSON bodies, so that none of them holds up the event loop.

A parser takes far more time and memory for some bodies than for others of the same size: a body of
16 MB can hold 1.2 million members, or five million empty strings. So the parts of a body are
counted before it is parsed. Large bodies are counted, parsed and validated in a thread.

A thread alone is not enough: Python's JSON parser and pydantic run in C and hold the interpreter's
lock (GIL) until they return. The limits below bound how long each of them runs at a time, and
`parse` releases the lock at every number.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import numpy as np
from starlette.requests import Request
from starlette.types import Scope

from service.api.problems import Problem

T = TypeVar("T")

# Bytes above which a body is processed in a thread; smaller ones take less time than the switch.
LARGE_BODY = 2**15
# Maximum arrays and objects in JSON, at any depth: each takes two bytes of text, but a hundred
# times that in the parser.
# Enough for the latents of ten thousand images with a style for each layer.
MAX_JSON_CONTAINERS = 2**18
# Maximum members of objects, at any depth. Enough for ten thousand sources with six fields each.
MAX_JSON_MEMBERS = 2**16
# Maximum values in arrays and objects, at any depth. A body of 16 MiB with numbers of full
# precision holds fewer; more numbers can be sent in base64.
MAX_JSON_VALUES = 2**20
# Maximum escaped characters in strings. Base64 with a line break, or an escaped slash, in every
# line has far fewer.
MAX_JSON_ESCAPES = 2**20

# Bytes that are counted at a time.
_STEP = 2**20
# The characters of JSON that determine its structure.
_STRUCTURE = b'"[]{},:'
_OTHER_CHARACTERS = bytes(set(range(256)) - set(_STRUCTURE))
_QUOTE, _COMMA, _COLON, _BACKSLASH = b'",:\\'
_DEPTH_CHANGE = np.zeros(256, np.int8)
_DEPTH_CHANGE[list(b"[{")] = 1
_DEPTH_CHANGE[list(b"]}")] = -1

_BODY_SIZE = "ganymede.body_size"
# Bodies that are parsed at the same time: more would slow down each other and the event loop.
_parsers = anyio.CapacityLimiter(2)


@dataclass(frozen=True)
class JsonLimits:
    """Maximum nesting depth and parts of a JSON text."""

    depth: int
    containers: int = MAX_JSON_CONTAINERS
    members: int = MAX_JSON_MEMBERS
    values: int = MAX_JSON_VALUES
    escapes: int = MAX_JSON_ESCAPES


def is_json(headers: Mapping[str, str]) -> bool:
    """True if the Content-Type, the first one if there are several, is JSON."""
    content_type = headers.get("content-type", "")
    if content_type == "application/json":
        return True
    media_type = content_type.partition(";")[0].strip().lower()
    main_type, _, subtype = media_type.partition("/")
    return main_type == "application" and (subtype == "json" or subtype.endswith("+json"))


def note_size(scope: Scope, size: int) -> None:
    """Record the bytes of a request's JSON body, for `body_size`."""
    scope.setdefault("state", {})[_BODY_SIZE] = size


def body_size(request: Request) -> int:
    """Return the bytes of a request's JSON body; 0 if it is small."""
    size: int = request.scope.get("state", {}).get(_BODY_SIZE, 0)
    return size


async def process(size: int, function: Callable[[], T]) -> T:
    """Return ``function()``, called in a thread if it handles a large body of `size` bytes."""
    if size <= LARGE_BODY:
        return function()
    return await anyio.to_thread.run_sync(function, limiter=_parsers)


def assert_bounded(text: bytes, limits: JsonLimits) -> None:
    """Raise Problem (400) if JSON exceeds `limits`.

    Takes a few passes over the text in C, whatever it contains. If the text is not JSON, the result
    is arbitrary.
    """
    if b"\0" in text:
        # The parser accepts UTF-16 and UTF-32, whose parts are not counted here.
        raise Problem(
            400,
            "invalid-json",
            "The body is not JSON",
            "the body is not JSON: it has a zero byte, and JSON must be UTF-8 (RFC 8259)",
        )
    containers = text.count(b"[") + text.count(b"{")
    if containers > limits.containers:
        raise _too_many("arrays and objects", limits.containers)
    least = min(limits.members, limits.values, limits.escapes)
    if containers <= limits.depth and len(text) <= least:
        return
    counts = _Counts()
    for part in _parts(text):
        counts.add(part)
        if counts.members > limits.members:
            raise _too_many("members of objects", limits.members)
        if counts.values > limits.values:
            raise _too_many("values", limits.values)
        if counts.escapes > limits.escapes:
            raise _too_many("escaped characters", limits.escapes)
        if counts.deepest > limits.depth:
            raise Problem(
                400,
                "json-too-deep",
                "The JSON is nested too deeply",
                f"arrays and objects may be nested up to {limits.depth} deep",
            )


def parse(text: bytes) -> Any:
    """Parse JSON. Raises ValueError and RecursionError.

    A large text gives other threads a turn at every number.
    """
    if len(text) <= LARGE_BODY:
        return json.loads(text)
    # Functions written in Python, because the lock is only released between their instructions.
    return json.loads(text, parse_float=_float, parse_int=_int)


def _float(text: str) -> float:
    return float(text)


def _int(text: str) -> int:
    return int(text)


class _Counts:
    """The parts of a JSON text that is read in steps."""

    def __init__(self) -> None:
        self.members = self.values = self.escapes = self.deepest = 0
        self._depth = 0
        self._in_string = False

    def add(self, part: bytes) -> None:
        """Count a part of the text that neither begins nor ends within an escape sequence."""
        unescaped = part
        if _BACKSLASH in part:
            # An escaped quotation mark does not begin or end a string.
            unescaped = part.replace(b"\\\\", b"").replace(b'\\"', b"")
            self.escapes += (len(part) - len(unescaped)) // 2 + unescaped.count(b"\\")
        codes = np.frombuffer(unescaped.translate(None, _OTHER_CHARACTERS), np.uint8)
        if not len(codes):
            return
        in_string = np.logical_xor.accumulate(codes == _QUOTE) ^ self._in_string
        self._in_string = bool(in_string[-1])
        codes = np.where(in_string, 0, codes)
        self.members += int(np.count_nonzero(codes == _COLON))
        self.values += int(np.count_nonzero(codes == _COMMA))
        depths = np.cumsum(_DEPTH_CHANGE[codes], dtype=np.int32) + self._depth
        self.deepest = max(self.deepest, int(depths.max()))
        self._depth = int(depths[-1])


def _parts(text: bytes) -> list[bytes]:
    """Split a text into parts, none of which begins or ends within an escape sequence."""
    if len(text) <= _STEP:
        return [text]
    parts, start = [], 0
    while start < len(text):
        end = min(start + _STEP, len(text))
        part = text[start:end]
        if (len(part) - len(part.rstrip(b"\\"))) % 2:
            end += 1
            part = text[start:end]
        parts.append(part)
        start = end
    return parts


def _too_many(parts: str, limit: int) -> Problem:
    return Problem(
        400,
        "json-too-many-parts",
        f"The JSON has too many {parts}",
        f"the body may have up to {limit:,} {parts}",
    )
