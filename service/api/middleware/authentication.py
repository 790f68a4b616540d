"""Who may ask: keys, the paths that need none, and who may administer.

Where keys are asked for, every path needs one but those that are open. Where none are, only
connections to a loopback address of this machine are served, however the process was started,
unless the operator has said that it is meant to be open.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from functools import lru_cache

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api import request_context
from service.api.middleware.early_responses import send_problem
from service.api.problems import Problem
from service.api.rate_limits import RateLimiter, TokenBucket
from service.api_keys import KeyRing
from service.settings import Settings, is_loopback

_ADMIN = "/v1/admin"
_CALLER = "ganymede.caller"
_REALM = 'Bearer realm="ganymede"'
_LOOPBACK_NAMES = ("localhost", "localhost.")
_PROXY_HEADERS = (b"forwarded", b"x-forwarded-for", b"x-real-ip", b"via")


@dataclass(frozen=True)
class Caller:
    """Who asks: the name of a key, or None where no keys are asked for."""

    name: str | None
    admin: bool
    rate_limit: TokenBucket | None = None


class Authentication:
    """ASGI middleware that lets in who may come in, and notes who it is."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        """Read the keys, when `settings` ask for them."""
        self._app = app
        self._insecure = settings.insecure
        self._ring = KeyRing(settings.keys) if settings.requires_keys and settings.keys else None
        self._open = settings.open_paths
        self._per_minute = settings.pixels_per_minute
        self._rate_limiter = RateLimiter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer by itself who may not come in."""
        if scope["type"] == "websocket":
            # Nothing here speaks it, and a handshake would be answered before any key is seen.
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            caller = self._caller(scope)
            request_context.note_key(caller.name)
            if _is_below(scope["path"], _ADMIN):
                assert_admin(caller)
        except Problem as problem:
            await send_problem(problem, scope, receive, send)
            return
        scope.setdefault("state", {})[_CALLER] = caller
        if caller.rate_limit is not None:
            send = _saying(caller.rate_limit, send)
        await self._app(scope, receive, send)

    def _caller(self, scope: Scope) -> Caller:
        """Raises Problem (401, 403)."""
        if self._ring is None:
            if not self._insecure and not is_loopback((scope.get("server") or ("",))[0]):
                raise _unguarded()
            client = (scope.get("client") or ("",))[0]
            bucket = self._rate_limiter.bucket(_network(client), self._per_minute)
            return Caller(None, _is_local(scope), bucket)
        presented = _presented(Headers(scope=scope))
        key = self._ring.find(presented) if presented else None
        if key is not None:
            per_minute = key.pixels_per_minute or self._per_minute
            return Caller(key.name, key.admin, self._rate_limiter.bucket(key.id, per_minute))
        if self._is_open(scope["path"]):
            return Caller(None, admin=False)
        if presented:
            raise Problem(
                401,
                "unknown-key",
                "The key is not known",
                "the key is unknown, revoked or past its time",
                headers={"www-authenticate": f'{_REALM}, error="invalid_token"'},
            )
        raise Problem(
            401,
            "key-needed",
            "A key is needed",
            "give one as Authorization: Bearer gnm_…, or as X-API-Key: gnm_…",
            headers={"www-authenticate": _REALM},
        )

    def _is_open(self, path: str) -> bool:
        return any(
            path.startswith(each[:-1]) if each.endswith("/*") else path == each
            for each in self._open
        )


def get_caller(request: Request) -> Caller:
    """Return who asks. Where no middleware has looked, it is somebody who may have anything."""
    caller: Caller | None = request.scope.get("state", {}).get(_CALLER)
    return caller or Caller(None, admin=False)


def require_admin(request: Request) -> Caller:
    """Return the administrator who asks: a dependency for routes. Raises Problem (403)."""
    caller = get_caller(request)
    assert_admin(caller)
    return caller


def assert_admin(caller: Caller) -> None:
    """Raise Problem (403) for who may not administer."""
    if caller.admin:
        return
    if caller.name is None:
        raise Problem(
            403,
            "admin-needed",
            "An administrator is needed",
            "without keys, only this machine itself may administer the service; start it with "
            "--keys FILE, and give a key made with ganymede keys add NAME --admin",
        )
    raise Problem(
        403,
        "admin-needed",
        "An administrator is needed",
        f"the key {caller.name} may not administer; make one with ganymede keys add NAME --admin",
        headers={"www-authenticate": f'{_REALM}, error="insufficient_scope"'},
    )


def _presented(headers: Headers) -> str | None:
    scheme, _, credentials = headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() == "bearer" and credentials.strip():
        return credentials.strip()
    return headers.get("x-api-key", "").strip() or None


def _is_local(scope: Scope) -> bool:
    """Whether this machine itself asks, and not a page in its browser that someone else wrote.

    Such a page can send requests here (`Sec-Fetch-Site` or `Origin` says so), and can give a name
    of its own to this machine's address (then `Host` is that name). Nor is it whoever a proxy
    speaks for.
    """
    # Of a header that came twice the first counts.
    headers: dict[bytes, bytes] = dict(reversed(scope["headers"]))
    host = headers.get(b"host", b"").decode("latin-1")
    own = f"http://{host}".encode("latin-1")
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return (
        is_loopback((scope.get("client") or ("",))[0])
        and (is_loopback(name) or name.lower() in _LOOPBACK_NAMES)
        and headers.get(b"sec-fetch-site", b"none") in (b"none", b"same-origin")
        and headers.get(b"origin", own) == own
        and headers.keys().isdisjoint(_PROXY_HEADERS)
    )


@lru_cache(maxsize=4096)
def _network(client: str) -> str:
    """Return what tells a client from others: IPv6 gives each of them 2⁶⁴ addresses."""
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return client
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is None:
        return str(ipaddress.ip_network((int(address), 64), strict=False))
    return client


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def _unguarded() -> Problem:
    return Problem(
        403,
        "keys-not-set-up",
        "Only this machine is served",
        "this service asks for no keys, so it answers nobody but the machine that it runs on; "
        "set GANYMEDE_KEYS to a file of keys (ganymede keys add NAME), or GANYMEDE_INSECURE=1 to "
        "let everyone in",
    )


def _saying(bucket: TokenBucket, send: Send) -> Send:
    """Tell the client what is left of its allowance."""

    async def say(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(bucket.headers())
        await send(message)

    return say
