"""Decodes base64 in the variants that clients send.

RFC 4648 defines two alphabets, and other standards line breaks (RFC 2045) and data URLs (RFC 2397).
Text that can only mean one sequence of bytes is accepted.
"""

from __future__ import annotations

import base64
import re

# Characters that are decoded at a time, a multiple of 4: other threads can run in between.
_STEP = 2**20
_DATA_URL = re.compile(rb"data:[^,]{0,100},", re.IGNORECASE)
_LINE_BREAKS = b"\r\n\t"
_INDENTED_LINE = re.compile(rb"[ \t]*[\r\n]\s*")
# Escapes in URLs of the characters of base64 and of line breaks.
_ESCAPES = ((b"%2B", b"+"), (b"%2F", b"/"), (b"%3D", b"="), (b"%0A", b"\n"), (b"%0D", b"\r"))
_URL_SAFE = bytes.maketrans(b"-_", b"+/")


def decode_base64(text: str) -> bytes:
    """Decode base64, with or without a data URL before it, line breaks and padding.

    Both alphabets are accepted, but not in one text. Raises ValueError with the reason.
    """
    try:
        data = text.strip().encode("ascii")
    except UnicodeEncodeError:
        raise ValueError("expected base64, got a character that is not ASCII") from None
    if prefix := _DATA_URL.match(data):
        data = _unescaped(data[prefix.end() :])
    if b" " in data:
        data = _INDENTED_LINE.sub(b"", data)
        if b" " in data:
            raise ValueError("expected base64, got a space: was a + decoded as a space?")
    is_url_safe = b"-" in data or b"_" in data
    if is_url_safe and (b"+" in data or b"/" in data):
        raise ValueError("expected base64 of one alphabet, got + or / together with - or _")
    parts: list[bytes] = []
    rest = b""
    for start in range(0, len(data), _STEP):
        rest += data[start : start + _STEP].translate(
            _URL_SAFE if is_url_safe else None, _LINE_BREAKS
        )
        # The last characters may be padding, or lack it.
        end = max(len(rest) - 4, 0) // 4 * 4
        parts.append(_decode(rest[:end]))
        rest = rest[end:]
    padding = len(rest) - len(rest.rstrip(b"="))
    rest = rest[: len(rest) - padding]
    if padding > 2 or len(rest) % 4 == 1:
        raise ValueError("expected base64, got a text that is cut off")
    parts.append(_decode(rest, b"=" * (-len(rest) % 4)))
    return b"".join(parts)


def _unescaped(data: bytes) -> bytes:
    """Replace the percent-encoding of the characters of base64."""
    if b"%" not in data:
        return data
    parts, start = [], 0
    while start < len(data):
        end = start + _STEP
        if end < len(data) and (escape := data.rfind(b"%", end - 2, end)) >= 0:
            end = escape
        part = data[start:end]
        for escaped, character in _ESCAPES:
            part = part.replace(escaped, character).replace(escaped.lower(), character)
        parts.append(part)
        start = end
    return b"".join(parts)


def _decode(data: bytes, padding: bytes = b"") -> bytes:
    if b"=" in data:
        raise ValueError("expected base64, got padding before its end")
    try:
        return base64.b64decode(data + padding, validate=True)
    except ValueError:
        raise ValueError("expected base64") from None
