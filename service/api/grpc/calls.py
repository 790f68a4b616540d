"""Passes gRPC calls to the ASGI application.

gRPC is HTTP/2: a call is a POST to ``/package.Service/Method`` whose headers are the metadata. So
the application gets a call as such a request, with one serialized message as its body, and a call
passes through everything that a request does: access log, metrics, spans, API keys, rate limits,
limits of the body, routes, problems. A message of a stream is a request of its own.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import unquote

from starlette.types import ASGIApp, Message, Scope

from service.api.grpc.statuses import Outcome, outcome
from service.settings import is_loopback

# The extension of the scope that marks a gRPC call.
EXTENSION = "ganymede.grpc"
CONTENT_TYPE = "application/grpc"

# A `grpc.aio.ServicerContext`.
Context = Any


def seconds_left(scope: Scope) -> float | None:
    """Return the seconds until the deadline of a gRPC call; None if the client set none.

    Raises KeyError if the request did not arrive over gRPC.
    """
    left: float | None = scope["extensions"][EXTENSION]["context"].time_remaining()
    return left


def is_call(scope: Scope) -> bool:
    """Return whether a request arrived over gRPC."""
    return EXTENSION in (scope.get("extensions") or {})


class Calls:
    """The calls that an application serves."""

    def __init__(self, app: ASGIApp, address: str) -> None:
        """`address` is the IP address on which the server listens."""
        self._app = app
        self._address = address
        # The event loop itself does not keep tasks that nobody waits for.
        self._running: set[asyncio.Task[None]] = set()

    async def respond(self, path: str, message: bytes, context: Context) -> Outcome:
        """Return the application's response to one message.

        If the client cancels the call, the application sees it disconnect, and ends by itself.
        """
        gone = asyncio.Event()
        request = [{"type": "http.request", "body": message, "more_body": False}]
        status, headers, body = 500, [], bytearray()

        async def receive() -> Message:
            if request:
                return request.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(sent: Message) -> None:
            nonlocal status, headers
            if sent["type"] == "http.response.start":
                status, headers = sent["status"], list(sent.get("headers", ()))
            elif sent["type"] == "http.response.body":
                body.extend(sent.get("body", b""))

        task = asyncio.create_task(self._serve(self._scope(path, context), receive, send))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            # Past its deadline, a call is cancelled, too; then the application reports that.
            left = context.time_remaining()
            if left is None or left > 0:
                gone.set()
            raise
        return outcome(status, headers, bytes(body))

    async def _serve(self, scope: Scope, receive: Any, send: Any) -> None:
        await self._app(scope, receive, send)

    def _scope(self, path: str, context: Context) -> Scope:
        client = _peer(context.peer())
        metadata = context.invocation_metadata() or ()
        headers = [
            (key.encode("latin-1"), value.encode("latin-1", "replace"))
            for key, value in metadata
            if isinstance(value, str)
        ]
        # A connection from a loopback address was made to one.
        server = client[0] if is_loopback(client[0]) else self._address
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "2",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [*headers, (b"content-type", CONTENT_TYPE.encode())],
            "client": client,
            "server": (server, 0),
            "state": {},
            "extensions": {EXTENSION: {"context": context}},
        }


def _peer(text: str) -> tuple[str, int]:
    """Return address and port of a peer: ``ipv4:10.0.0.1:5000`` or ``ipv6:%5B::1%5D:5000``."""
    host, _, port = unquote(text.partition(":")[2]).rpartition(":")
    return host.strip("[]"), int(port) if port.isdecimal() else 0
