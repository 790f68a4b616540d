"""The origins of web pages that may read the service's responses: `--cors-origin`."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

ANY_ORIGIN = "*"
_EXPECTED = "expected SCHEME://HOST or SCHEME://HOST:PORT, such as https://app.example.com"
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_HOST = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?|\[[0-9a-f:.]+\]")
# Browsers leave these out of an origin.
_DEFAULT_PORTS = {"http": 80, "https": 443}


def parse_origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    """Return `origins` as browsers write them in the `Origin` header, without repetitions.

    ``*`` stands for all origins, and must be the only one. Raises ValueError.
    """
    parsed = tuple(dict.fromkeys(map(_parse_origin, origins)))
    if ANY_ORIGIN in parsed and len(parsed) > 1:
        others = ", ".join(origin for origin in parsed if origin != ANY_ORIGIN)
        raise ValueError(f"* allows every origin: give it without {others}")
    return parsed


def _parse_origin(text: str) -> str:
    """Return one origin in lower case, without the default port. Raises ValueError."""
    if text == ANY_ORIGIN:
        return text
    if text.lower() == "null":
        raise ValueError("'null' is the origin of every sandboxed page; use * to allow every page")
    scheme, separator, rest = text.lower().partition("://")
    if not separator or not _SCHEME.fullmatch(scheme):
        raise ValueError(f"{text!r} has no scheme; {_EXPECTED}")
    if any(character in rest for character in "/?#"):
        raise ValueError(f"{text!r} has a path, and an origin has none; {_EXPECTED}")
    if "*" in rest:
        raise ValueError(f"{text!r} is a pattern; list each origin, or use * alone for every one")
    try:
        parts = urlsplit(f"{scheme}://{rest}")
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{text!r} is not an origin: {error}; {_EXPECTED}") from error
    host = rest.removesuffix(f":{rest.rpartition(':')[2]}") if port is not None else rest
    if not host.isascii():
        raise ValueError(f"{text!r} has a host that is not ASCII; write it as xn--…")
    if not _HOST.fullmatch(host):
        raise ValueError(f"{text!r} has no valid host; {_EXPECTED}")
    suffix = "" if port in (None, _DEFAULT_PORTS.get(scheme)) else f":{port}"
    return f"{scheme}://{host}{suffix}"
