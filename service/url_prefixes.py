"""URLs that clients of the service may name: those below prefixes that the operator allows.

A URL is compared with a prefix part by part, as it is sent, and never after decoding: scheme, host
or bucket, and each folder must be equal. Everything by which a URL could mean another place than
its text says is refused: ``..``, percent-encoded separators, chains of fsspec such as
``simplecache::``, wildcards, credentials, queries and fragments.

A host that an operator allows may be a private one. The service follows no redirect from it, so
that it cannot be sent elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from service.runtime.errors import UserError

MAX_URL_LENGTH = 1000
_WEB_PORTS = {"http": "80", "https": "443"}
_URL = re.compile(r"([a-z][a-z0-9+.-]*)://([^/]*)(/.*)?", re.DOTALL)
# The characters of RFC 952 and 1123, which include IPv4 addresses. fsspec splits IPv6 addresses.
_HOST = re.compile(r"([a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)(?::(\d{1,5}))?", re.ASCII)


class InvalidURL(UserError):
    """A text is not a URL that can be compared with prefixes. The message has no part of it."""


class URLNotAllowed(UserError):
    """A URL is below none of the prefixes."""


@dataclass(frozen=True)
class ComparableURL:
    """The parts of a URL: scheme, host or bucket, and the names in its path."""

    scheme: str
    host: str
    path: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> ComparableURL:
        """Split a URL. A slash at the end makes no difference. Raises InvalidURL."""
        if len(text) > MAX_URL_LENGTH:
            raise InvalidURL(f"expected at most {MAX_URL_LENGTH:,} characters")
        if "::" in text:
            raise InvalidURL("chained URLs (::) are not supported")
        match = _URL.fullmatch(text)
        if match is None:
            raise InvalidURL("expected a URL with a lower-case scheme, such as s3://bucket/folder")
        scheme, host, path = match[1], match[2], match[3] or ""
        if "@" in host:
            raise InvalidURL("credentials in a URL are not supported")
        if any(character in text for character in "?#\\") or not text.isprintable() or " " in text:
            raise InvalidURL("expected no query, fragment, backslash, space or control character")
        if any(character in text for character in "*[]"):
            # fsspec would delete all that matches.
            raise InvalidURL("wildcards (*, [ and ]) are not supported")
        if not host and scheme != "file":
            raise InvalidURL("a host or bucket is missing")
        if scheme in _WEB_PORTS:
            host = _host(scheme, host)
        names = tuple(path.removesuffix("/").split("/")[1:])
        for name in names:
            _assert_plain(name, is_web=scheme in _WEB_PORTS)
        return cls(scheme, host, names)

    def is_below(self, prefix: ComparableURL) -> bool:
        """Whether this URL is `prefix` or below it."""
        return (self.scheme, self.host) == (prefix.scheme, prefix.host) and (
            self.path[: len(prefix.path)] == prefix.path
        )


def _host(scheme: str, host: str) -> str:
    """Return a host without the scheme's own port. Raises InvalidURL."""
    match = _HOST.fullmatch(host.lower())
    if match is None:
        raise InvalidURL("the host is not valid")
    name, port = match[1], match[2]
    return name if port in (None, _WEB_PORTS[scheme]) else f"{name}:{port}"


def _assert_plain(name: str, *, is_web: bool) -> None:
    """Raise InvalidURL if a name in a path could mean a place outside of its folder."""
    # Web servers decode names, and some decode them twice; object stores take them as they are.
    decoded = unquote(name, errors="replace") if is_web else name
    if name in ("", ".", "..") or decoded in (".", ".."):
        raise InvalidURL("expected no empty part, . or .. in the path")
    if any(character in decoded for character in "/\\\0") or (is_web and "%" in decoded):
        raise InvalidURL("expected no encoded separator or percent sign in the path")


def parse_prefixes(texts: Sequence[str]) -> tuple[str, ...]:
    """Return the prefixes of a setting. Raises ValueError for an invalid one."""
    for text in texts:
        try:
            ComparableURL.parse(text)
        except InvalidURL as error:
            raise ValueError(f"{text!r} is not a URL prefix: {error}") from error
    return tuple(texts)


def assert_allowed(url: str, prefixes: Sequence[str]) -> None:
    """Raise URLNotAllowed if a URL is below none of `prefixes`, and InvalidURL."""
    parsed = ComparableURL.parse(url)
    if not any(parsed.is_below(ComparableURL.parse(prefix)) for prefix in prefixes):
        raise URLNotAllowed(f"the operator of this service does not allow {url}")
