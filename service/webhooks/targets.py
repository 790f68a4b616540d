"""The targets to which the operator permits webhooks, against server-side request forgery.

A client chooses the URL of a webhook, and the service sends a request there from inside its
network. So the URL must match an entry of the operator's list, and an address to which its host
name resolves must be public, unless the operator has named this host with a full URL. The name is
resolved once for each request, and the connection goes to the address that was checked.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from service.runtime.errors import UserError

MAX_URL_LENGTH = 2000
_PORTS = {"http": 80, "https": 443}
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
# Visible ASCII characters, without the backslash, which some servers read as a slash.
_TARGET = re.compile(r"[!-\[\]-~]*")
# IPv6 addresses that a gateway translates to the IPv4 address in their last 32 bits (RFC 6052).
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class WebhookRefused(UserError):
    """The URL of a webhook is not valid, or the operator does not permit it."""


class WebhookNotPermitted(WebhookRefused):
    """The operator does not permit webhooks to this URL."""


@dataclass(frozen=True)
class WebhookTarget:
    """Where a webhook is sent.

    Attributes:
        host: lower-case, without the brackets of an IPv6 address.
        path: path and query, beginning with a slash.
        permits_private: whether the host may resolve to a private address.
    """

    scheme: str
    host: str
    port: int
    path: str
    permits_private: bool = False

    @classmethod
    def parse(cls, url: str) -> WebhookTarget:
        """Parse a URL. Raises WebhookRefused."""
        if len(url) > MAX_URL_LENGTH:
            raise WebhookRefused(f"expected at most {MAX_URL_LENGTH:,} characters")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise WebhookRefused(f"{url[:100]!r} is not a URL: {error}") from error
        if parts.scheme not in _PORTS or not parts.hostname:
            raise WebhookRefused(f"expected a URL such as https://HOST/PATH, got {url[:100]!r}")
        if parts.username is not None or parts.password is not None:
            raise WebhookRefused("expected a URL without user name and password")
        if parts.fragment or url.endswith("#"):
            raise WebhookRefused("expected a URL without a fragment (#)")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if not _TARGET.fullmatch(url) or not _TARGET.fullmatch(path):
            raise WebhookRefused(
                "expected printable ASCII characters; escape others in the path, and write the "
                "host name in Punycode"
            )
        if any(segment in (".", "..") for segment in unquote(parts.path).split("/")):
            raise WebhookRefused("expected a path without the segments . and ..")
        if not _is_host(parts.hostname):
            raise WebhookRefused(f"{parts.hostname[:100]!r} is not a host name")
        if port == 0:
            raise WebhookRefused("expected a port from 1 to 65535")
        return cls(parts.scheme, parts.hostname, port or _PORTS[parts.scheme], path)

    @property
    def authority(self) -> str:
        """The value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def assert_permitted(self, address: str) -> None:
        """Raise WebhookRefused for an IP address that is not public, unless that is permitted."""
        if not self.permits_private and not is_public(address):
            raise WebhookNotPermitted(
                f"{self.host} resolves to {address}, which is not a public address"
            )


@dataclass(frozen=True)
class _Entry:
    """One entry: a host, or all names below it, by HTTPS; or a URL with which a target begins."""

    host: str
    port: int
    is_pattern: bool = False
    prefix: WebhookTarget | None = None

    @classmethod
    def parse(cls, text: str) -> _Entry:
        """Parse an entry. Raises ValueError."""
        if "://" in text:
            try:
                prefix = WebhookTarget.parse(text)
            except WebhookRefused as error:
                raise ValueError(f"{text!r} cannot be permitted: {error}") from error
            return cls(prefix.host, prefix.port, prefix=prefix)
        host, port = text.lower(), _PORTS["https"]
        before, _, digits = host.rpartition(":")
        if re.fullmatch(r"[0-9]{1,5}", digits) and (":" not in before or before.endswith("]")):
            host, port = before, int(digits)
        is_pattern = host == "*" or host.startswith("*.")
        name = host[2:] if is_pattern else host.strip("[]")
        if not (host == "*" or _is_host(name)) or not 0 < port < 2**16:
            raise ValueError(
                f"{text!r} is neither a host, such as hooks.example.com or *.example.com, nor a "
                "URL, such as http://10.0.0.7:8080/"
            )
        return cls(name, port, is_pattern)

    def permits(self, target: WebhookTarget) -> bool:
        if target.port != self.port:
            return False
        if self.prefix is None:
            is_below = not self.host or target.host.endswith(f".{self.host}")
            matches = is_below if self.is_pattern else target.host == self.host
            return matches and target.scheme == "https"
        path, prefix = target.path, self.prefix.path
        is_path_below = path == prefix or (
            path.startswith(prefix) and (prefix.endswith("/") or path[len(prefix)] in "/?")
        )
        return (target.scheme, target.host) == (self.prefix.scheme, self.host) and is_path_below


class PermittedTargets:
    """The list of the operator."""

    def __init__(self, entries: Iterable[str]) -> None:
        """Parse the entries. Raises ValueError, which names the entry."""
        self._entries = [_Entry.parse(entry) for entry in entries]

    def __bool__(self) -> bool:
        """Return whether any target is permitted."""
        return bool(self._entries)

    def find(self, url: str) -> WebhookTarget:
        """Return the target of a URL. Raises WebhookRefused."""
        if not self._entries:
            raise WebhookNotPermitted(
                "this service sends no webhooks; the operator permits hosts with webhook_hosts"
            )
        target = WebhookTarget.parse(url)
        permitting = [entry for entry in self._entries if entry.permits(target)]
        if not permitting:
            raise WebhookNotPermitted(
                f"{target.scheme}://{target.authority} is not a target to which this service sends "
                "webhooks; the operator permits hosts with webhook_hosts"
            )
        is_explicit = any(entry.prefix is not None for entry in permitting)
        return WebhookTarget(target.scheme, target.host, target.port, target.path, is_explicit)


def is_public(address: str) -> bool:
    """Return whether an IP address can be reached from everywhere.

    False for addresses of private networks, of this machine, of the link (such as those of cloud
    metadata services), for multicast and reserved ones, and for IPv6 addresses that contain one of
    these.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip in _NAT64:
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
        if ip.ipv4_mapped is not None:
            return is_public(str(ip.ipv4_mapped))
        inner = (ip.sixtofour, *(ip.teredo or ()))
        if ip.is_site_local or any(each and not is_public(str(each)) for each in inner):
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def _is_host(text: str) -> bool:
    if len(text) > 253:
        return False
    if ":" in text:
        try:
            return "%" not in text and ipaddress.ip_address(text).version == 6
        except ValueError:
            return False
    return _HOST.fullmatch(text) is not None
