"""Around every exchange: its id, its line in the log, its place in the metrics, and its span."""

from __future__ import annotations

import logging
import random
import re
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import logs, tracing
from service.api import metrics, request_context
from service.api.request_context import Rejection, RequestContext

log = logging.getLogger("ganymede.access")

REQUEST_ID = b"x-request-id"
# Nothing that could end a line, a string or a header, wherever the id is written down.
_SANE = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:/+=@-]{0,127}")
_UNMATCHED = "unmatched"
# For refusals of which nobody has said more.
_BY_STATUS = {
    401: Rejection.UNAUTHORIZED,
    403: Rejection.FORBIDDEN,
    413: Rejection.TOO_LARGE,
    429: Rejection.RATE_LIMITED,
    499: Rejection.CLIENT_GONE,
    503: Rejection.NOT_READY,
    504: Rejection.DEADLINE,
}


class Access:
    """ASGI middleware, the outermost: it sees the answer to an unforeseen error too.

    The id of an exchange is the request's `X-Request-Id` where that is up to 128 characters of a
    plain kind, else a new one. It comes back in the answer's header.
    """

    def __init__(self, app: ASGIApp, *, log_requests: bool) -> None:
        self._app = app
        self._log_requests = log_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, and take notes."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        this = _begin(scope)
        answer = _Answer(send, this.request_id)
        try:
            await self._app(scope, receive, answer)
        except Exception:
            # What was answered has been logged too, and needs no second stack trace of the host's.
            if not answer.ended:
                raise
        finally:
            seconds = time.perf_counter() - began
            if answer.status >= 400 and this.rejection is None:
                this.rejection = _BY_STATUS.get(answer.status)
            # Of what no route of ours has answered, nothing is a label: it may be any.
            route = getattr(scope.get("route"), "path", None) or _UNMATCHED
            _count(scope, route, this, answer.status, seconds)
            _trace(scope, route, this, answer.status)
            if self._log_requests:
                _log(scope, route, this, answer, seconds)


class _Answer:
    """The way out: notes what passes, and says the exchange's id."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._header = (REQUEST_ID, request_id.encode())
        # Of an exchange that ends without an answer.
        self.status = 500
        self.size = 0
        self.ended = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": [*message.get("headers", ()), self._header]}
        elif message["type"] == "http.response.body":
            self.size += len(message.get("body", b""))
            self.ended = not message.get("more_body", False)
        await self._send(message)


def _begin(scope: Scope) -> RequestContext:
    told = next((value for name, value in scope["headers"] if name == REQUEST_ID), b"")
    this = RequestContext(told.decode() if _SANE.fullmatch(told) else _new_id())
    about = {"request_id": this.request_id}
    if (tracer := tracing.current()) is not None:
        this.span = tracer.begin(scope["headers"])
        about |= tracer.ids(this.span)
    request_context.begin(this)
    logs.context.set(about)
    return this


def _new_id() -> str:
    # Not a secret, so it need not come from the kernel, which takes twenty times as long.
    return f"{random.getrandbits(128):032x}"


def _count(scope: Scope, route: str, this: RequestContext, status: int, seconds: float) -> None:
    method = "any" if route == _UNMATCHED else scope["method"]
    metrics.record_request(route, method, status, seconds, this.rejection)
    if status in (200, 304) and any(name == b"if-none-match" for name, _ in scope["headers"]):
        metrics.record_cache_lookups(metrics.Cache.CLIENT, hits=int(status == 304), lookups=1)


def _trace(scope: Scope, route: str, this: RequestContext, status: int) -> None:
    if this.span is None or (tracer := tracing.current()) is None:
        return
    more = {
        "ganymede.request_id": this.request_id,
        "ganymede.model": this.model,
        "ganymede.rejection": this.rejection,
    }
    tracer.end(this.span, scope, route, status, more)


def _log(scope: Scope, route: str, this: RequestContext, answer: _Answer, seconds: float) -> None:
    fields: dict[str, object] = {
        "method": scope["method"],
        "route": route,
        "status": answer.status,
        "ms": round(seconds * 1000, 1),
        "bytes": answer.size,
    }
    if this.key is not None:
        fields["key"] = this.key
    if this.model is not None:
        fields["model"] = this.model
    if this.rejection is not None:
        fields["reason"] = this.rejection.value
    log.info("answered", extra={"fields": fields})
