"""The outermost middleware: request id, log line, metrics, span, and a 500 for unhandled errors."""

from __future__ import annotations

import logging
import random
import re
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import logs, tracing
from service.api import metrics, request_context
from service.api.middleware.errors import unexpected_error
from service.api.middleware.request_headers import request_headers
from service.api.request_context import Rejection, RequestContext

log = logging.getLogger("ganymede.access")

REQUEST_ID = b"x-request-id"
# Excludes all characters that could end a line, a string or a header that contains the id.
_VALID_ID = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:/+=@-]{0,127}")
_UNMATCHED = "unmatched"
# Used if no more specific reason was noted.
REASON_BY_STATUS = {
    401: Rejection.UNAUTHORIZED,
    403: Rejection.FORBIDDEN,
    413: Rejection.TOO_LARGE,
    429: Rejection.RATE_LIMITED,
    499: Rejection.CLIENT_GONE,
    503: Rejection.NOT_READY,
    504: Rejection.DEADLINE,
}


class AccessLog:
    """The outermost ASGI middleware: logs every response, including those to unexpected errors.

    The id of a request is the value of its `X-Request-Id` header if it consists of up to 128 safe
    characters, otherwise a new random one. The response contains it in the same header.
    """

    def __init__(self, app: ASGIApp, *, log_requests: bool) -> None:
        self._app = app
        self._log_requests = log_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and record its outcome."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        context = _start_context(scope)
        response = _RecordedResponse(send, context.request_id)
        try:
            await self._app(scope, receive, response)
        except Exception:
            error_response = unexpected_error(scope["method"], scope["path"])
            if response.started and not response.ended:
                # Part of the response was sent, so the server has to close the connection.
                raise
            if not response.started:
                await error_response(scope, receive, response)
        finally:
            seconds = time.perf_counter() - started
            if response.status >= 400 and context.rejection is None:
                context.rejection = REASON_BY_STATUS.get(response.status)
            # The path of an unmatched request must not become a label: clients choose it.
            route = getattr(scope.get("route"), "path", None) or _UNMATCHED
            _count(scope, route, context, response.status, seconds)
            _end_span(scope, route, context, response.status)
            if self._log_requests:
                _log(scope, route, context, response, seconds)


class _RecordedResponse:
    """A `send` that records status and size, and adds the request's id to the headers."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._header = (REQUEST_ID, request_id.encode())
        self.started = False
        self.ended = False
        # Reported if the request ends without a response.
        self.status = 500
        self.size = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self.status = message["status"]
            message = {**message, "headers": [*message.get("headers", ()), self._header]}
        elif message["type"] == "http.response.body":
            self.size += len(message.get("body", b""))
            self.ended = not message.get("more_body", False)
        await self._send(message)


def _start_context(scope: Scope) -> RequestContext:
    sent_id = next((value for name, value in scope["headers"] if name == REQUEST_ID), b"")
    context = RequestContext(sent_id.decode() if _VALID_ID.fullmatch(sent_id) else _new_id())
    log_fields = {"request_id": context.request_id}
    if (tracer := tracing.current()) is not None:
        context.span = tracer.start_request_span(scope["headers"])
        log_fields |= tracer.log_fields(context.span)
    request_context.begin(context)
    logs.context.set(log_fields)
    return context


def _new_id() -> str:
    # Not a secret: the kernel's random numbers would take twenty times as long.
    return f"{random.getrandbits(128):032x}"


def _count(scope: Scope, route: str, context: RequestContext, status: int, seconds: float) -> None:
    method = "any" if route == _UNMATCHED else scope["method"]
    metrics.record_request(route, method, status, seconds, context.rejection)
    if status in (200, 304) and "if-none-match" in request_headers(scope):
        metrics.record_cache_lookups(metrics.Cache.CLIENT, hits=int(status == 304), lookups=1)


def _end_span(scope: Scope, route: str, context: RequestContext, status: int) -> None:
    if context.span is None or (tracer := tracing.current()) is None:
        return
    attributes = {
        "ganymede.request_id": context.request_id,
        "ganymede.model": context.model,
        "ganymede.rejection": context.rejection,
    }
    tracer.end_request_span(context.span, scope, route, status, attributes)


def _log(
    scope: Scope, route: str, context: RequestContext, response: _RecordedResponse, seconds: float
) -> None:
    fields: dict[str, object] = {
        "method": scope["method"],
        "route": route,
        "status": response.status,
        "ms": round(seconds * 1000, 1),
        "bytes": response.size,
    }
    if context.key is not None:
        fields["key"] = context.key
    if context.model is not None:
        fields["model"] = context.model
    if context.rejection is not None:
        fields["reason"] = context.rejection.value
    logs.info_soon(log, "answered", fields)
