"""Authenticates requests by API key.

If the service requires keys, every path except the open paths needs one. Otherwise, only
connections to a loopback address of this machine are accepted, regardless of how the process was
started, unless the operator has set `insecure`.

Without keys, nobody is an administrator unless the operator has set `insecure_admin`: a proxy on
this machine may add no headers, and its clients then look like programs on this machine.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from fastapi import Request
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api import request_context
from service.api.middleware.early_responses import send_problem
from service.api.middleware.request_headers import request_headers
from service.api.problems import Problem
from service.api.rate_limits import RateLimiter, TokenBucket
from service.api_keys import Key, KeyRing
from service.runtime.scheduling.batches import Priority
from service.settings import Settings, is_loopback

_ADMIN_PATH = "/v1/admin"
# Clients of AUTOMATIC1111's API know no other scheme. Only there, because browsers repeat such
# credentials by themselves.
_BASIC_PATH = "/sdapi"
_CALLER = "ganymede.caller"
_REALM = 'Bearer realm="ganymede"'
_LOOPBACK_NAMES = ("localhost", "localhost.")
_PROXY_HEADERS = (b"forwarded", b"x-forwarded-for", b"x-real-ip", b"via")


@dataclass(frozen=True)
class Caller:
    """The sender of a request: the name of its key, or None without a key."""

    name: str | None
    admin: bool
    rate_limit: TokenBucket | None = None
    key: Key | None = None
    max_priority: Priority = Priority.HIGH


class Authentication:
    """ASGI middleware that authenticates requests and records their caller."""

    def __init__(
        self, app: ASGIApp, settings: Settings, rate_limiter: RateLimiter | None = None
    ) -> None:
        """Read the keys, if `settings` require them."""
        self._app = app
        self._insecure = settings.insecure
        self._insecure_admin = settings.insecure_admin
        self._keys = KeyRing(settings.keys) if settings.requires_keys and settings.keys else None
        self._open_paths = settings.open_paths
        self._pixels_per_minute = settings.pixels_per_minute
        self._max_priority = Priority[settings.max_priority.upper()]
        self._rate_limiter = rate_limiter or RateLimiter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or respond 401 or 403."""
        if scope["type"] == "websocket":
            # No route supports it, and the handshake would be answered before the key is checked.
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            caller = self._authenticate(scope)
            request_context.note_key(caller.name)
            if _is_below(scope["path"], _ADMIN_PATH):
                _assert_admin(caller)
        except Problem as problem:
            await send_problem(problem, scope, receive, send)
            return
        scope.setdefault("state", {})[_CALLER] = caller
        if caller.rate_limit is not None:
            send = _with_rate_limit_headers(caller.rate_limit, send)
        await self._app(scope, receive, send)

    def _authenticate(self, scope: Scope) -> Caller:
        """Return the caller. Raises Problem (401, 403)."""
        if self._keys is None:
            if not self._insecure and not is_loopback((scope.get("server") or ("",))[0]):
                raise _no_access_control()
            client = (scope.get("client") or ("",))[0]
            bucket = self._rate_limiter.bucket(_client_network(client), self._pixels_per_minute)
            admin = self._insecure_admin and _is_local(scope)
            return Caller(None, admin, bucket, max_priority=self._max_priority)
        credentials = _credentials(request_headers(scope), scope["path"])
        key = self._keys.find(credentials) if credentials else None
        if key is not None:
            per_minute = key.pixels_per_minute or self._pixels_per_minute
            bucket = self._rate_limiter.bucket(key.id, per_minute)
            own = key.max_priority
            highest = Priority[own.upper()] if own else self._max_priority
            return Caller(key.name, key.admin, bucket, key, highest)
        if self._is_open(scope["path"]):
            return Caller(None, admin=False, max_priority=self._max_priority)
        if credentials:
            raise Problem(
                401,
                "unknown-key",
                "The API key is not valid",
                "the key is unknown, revoked or expired",
                headers={"www-authenticate": f'{_REALM}, error="invalid_token"'},
            )
        raise Problem(
            401,
            "key-needed",
            "An API key is required",
            "send it as Authorization: Bearer gnm_…, or as X-API-Key: gnm_…",
            headers={"www-authenticate": _REALM},
        )

    def _is_open(self, path: str) -> bool:
        return any(
            path.startswith(pattern[:-1]) if pattern.endswith("/*") else path == pattern
            for pattern in self._open_paths
        )


def get_caller(request: Request) -> Caller:
    """Return the caller of a request; an anonymous one if `Authentication` is not installed."""
    caller: Caller | None = request.scope.get("state", {}).get(_CALLER)
    return caller or Caller(None, admin=False)


def require_admin(request: Request) -> Caller:
    """FastAPI dependency that returns the caller.

    Raises Problem (403) if the caller is not an administrator.
    """
    caller = get_caller(request)
    _assert_admin(caller)
    return caller


def _assert_admin(caller: Caller) -> None:
    """Raise Problem (403) if the caller is not an administrator."""
    if caller.admin:
        return
    if caller.name is None:
        raise Problem(
            403,
            "admin-needed",
            "Administrator access is required",
            "without keys, nobody can administer the service; start it with --keys FILE, and use a "
            "key created by ganymede keys add NAME --admin, or start it with --insecure-admin, "
            "which lets every program on this machine administer it",
        )
    raise Problem(
        403,
        "admin-needed",
        "Administrator access is required",
        f"the key {caller.name} is not an administrator's; create one with "
        "ganymede keys add NAME --admin",
        headers={"www-authenticate": f'{_REALM}, error="insufficient_scope"'},
    )


def _credentials(headers: Mapping[str, str], path: str) -> str | None:
    """Return the key of a request; None without one."""
    scheme, _, credentials = headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() == "bearer" and credentials.strip():
        return credentials.strip()
    if scheme.lower() == "basic" and _is_below(path, _BASIC_PATH):
        return _password(credentials.strip())
    return headers.get("x-api-key", "").strip() or None


def _password(credentials: str) -> str | None:
    """Return the password in the credentials of Basic authentication (RFC 7617), if it has one."""
    try:
        text = base64.b64decode(credentials, validate=True).decode("utf-8")
    except ValueError:
        return None
    return text.partition(":")[2].strip() or None


def _is_local(scope: Scope) -> bool:
    """Return True if a program on this machine sent the request.

    False for requests of web pages in a browser on this machine: cross-origin requests are detected
    by `Sec-Fetch-Site` and `Origin`, and foreign host names that resolve to this machine (DNS
    rebinding) by `Host`. False for requests with the headers of a proxy, which forwards other
    clients' requests.
    """
    # If a header is repeated, the first one counts.
    headers: dict[bytes, bytes] = dict(reversed(scope["headers"]))
    host = headers.get(b"host", b"").decode("latin-1")
    own_origin = f"http://{host}".encode("latin-1")
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return (
        is_loopback((scope.get("client") or ("",))[0])
        and (is_loopback(name) or name.lower() in _LOOPBACK_NAMES)
        and headers.get(b"sec-fetch-site", b"none") in (b"none", b"same-origin")
        and headers.get(b"origin", own_origin) == own_origin
        and headers.keys().isdisjoint(_PROXY_HEADERS)
    )


@lru_cache(maxsize=4096)
def _client_network(client: str) -> str:
    """Return the identity of a client for rate limits: its IPv4 address or its IPv6 /64 network."""
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return client
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is None:
        return str(ipaddress.ip_network((int(address), 64), strict=False))
    return client


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def _no_access_control() -> Problem:
    return Problem(
        403,
        "keys-not-set-up",
        "Only this machine has access",
        "this service has no keys, so it accepts requests from its own machine only; set "
        "GANYMEDE_KEYS to a file of keys (ganymede keys add NAME), or GANYMEDE_INSECURE=1 to "
        "accept every request",
    )


def _with_rate_limit_headers(bucket: TokenBucket, send: Send) -> Send:
    """Return a `send` that adds the state of the rate limit to the response headers."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(bucket.headers())
        await send(message)

    return send_with_headers
