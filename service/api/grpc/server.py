"""The gRPC server of a process.

All processes of a server listen on the same port (SO_REUSEPORT): the kernel gives each connection
to one of them, where it stays.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc import StatusCode, aio
from starlette.types import ASGIApp

from service.api.grpc import messages
from service.api.grpc.calls import Calls, Context
from service.api.protocols.kserve.grpc_codec import SERVICE, encode_stream_error

log = logging.getLogger("ganymede.grpc")

_HEALTH = "grpc.health.v1.Health"
_HealthRequest = messages.message_class("grpc.health.v1.HealthCheckRequest")
_HealthResponse = messages.message_class("grpc.health.v1.HealthCheckResponse")
# Messages of one stream that are worked on at a time, so that they can share batches.
_MAX_STREAMED = 32
# Every message of a stream would get these errors, so they end it.
_ENDS_STREAM = (StatusCode.UNAUTHENTICATED, StatusCode.PERMISSION_DENIED)
# Seconds in which the client of a finished call must read its response when the server stops.
_STOP_S = 1.0

_Handler = Callable[[bytes, Context], Awaitable[bytes]]


class GrpcServer:
    """Serves an ASGI application over gRPC. Used in the event loop."""

    def __init__(
        self,
        app: ASGIApp,
        is_ready: Callable[[], bool],
        *,
        max_message_bytes: int,
        max_metadata_bytes: int,
    ) -> None:
        """Serve `app`; the health service reports `is_ready`."""
        self._app = app
        self._is_ready = is_ready
        self._options = [
            ("grpc.so_reuseport", 1),
            ("grpc.max_receive_message_length", max_message_bytes),
            # Responses are bounded by the number of images.
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", max_metadata_bytes),
            ("grpc.absolute_max_metadata_size", max_metadata_bytes),
        ]
        self._server: aio.Server | None = None

    async def start(self, address: str, port: int) -> None:
        """Listen on an IP address. Raises OSError if the port is not free."""
        self._calls = Calls(self._app, address)
        server = aio.server(options=self._options)
        methods = messages.service(SERVICE).methods
        handlers = {
            method.name: self._stream(f"/{SERVICE}/{method.name}")
            if method.client_streaming
            else self._unary(f"/{SERVICE}/{method.name}")
            for method in methods
        }
        server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(SERVICE, handlers),
                grpc.method_handlers_generic_handler(
                    _HEALTH, {"Check": grpc.unary_unary_rpc_method_handler(self._check_health)}
                ),
            )
        )
        host = f"[{address}]" if ":" in address else address
        try:
            server.add_insecure_port(f"{host}:{port}")
        except RuntimeError as error:
            raise OSError(f"cannot listen on {host}:{port} for gRPC") from error
        await server.start()
        self._server = server
        log.info("gRPC on %s:%d", host, port)

    async def stop(self) -> None:
        """Close the port and all connections. Calls that still run are cancelled after a second."""
        if self._server is not None:
            await self._server.stop(_STOP_S)

    def _unary(self, path: str) -> Any:
        async def handle(request: bytes, context: Context) -> bytes:
            outcome = await self._calls.respond(path, request, context)
            if outcome.code is not StatusCode.OK:
                await context.abort(outcome.code, outcome.detail, outcome.metadata)
            context.set_trailing_metadata(outcome.metadata)
            return outcome.message

        return grpc.unary_unary_rpc_method_handler(handle)

    def _stream(self, path: str) -> Any:
        async def handle(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
            async for request, outcome in _in_order(
                requests, lambda request: self._calls.respond(path, request, context)
            ):
                if outcome.code in _ENDS_STREAM:
                    await context.abort(outcome.code, outcome.detail, outcome.metadata)
                if outcome.code is StatusCode.OK:
                    yield outcome.message
                else:
                    yield encode_stream_error(request, outcome.detail)

        return grpc.stream_stream_rpc_method_handler(handle)

    async def _check_health(self, request: bytes, context: Context) -> bytes:
        """Respond to a probe, which needs no key, like `/readyz`."""
        try:
            service = _HealthRequest.FromString(request).service
        except DecodeError:
            service = None
        if service not in ("", SERVICE):
            await context.abort(StatusCode.NOT_FOUND, f"expected {SERVICE}, or no service")
        status = "SERVING" if self._is_ready() else "NOT_SERVING"
        encoded: bytes = _HealthResponse(status=status).SerializeToString()
        return encoded


async def _in_order(
    requests: AsyncIterator[bytes], respond: Callable[[bytes], Awaitable[Any]]
) -> AsyncIterator[tuple[bytes, Any]]:
    """Yield each request with its response, in the order of the requests.

    At most `_MAX_STREAMED` requests are read before the response to the first one has been yielded.
    """
    # None marks the end.
    waiting: asyncio.Queue[tuple[bytes, asyncio.Task[Any]] | None] = asyncio.Queue()
    room = asyncio.Semaphore(_MAX_STREAMED)
    tasks: set[asyncio.Task[Any]] = set()

    async def read() -> None:
        try:
            async for request in requests:
                task = asyncio.ensure_future(respond(request))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                waiting.put_nowait((request, task))
                await room.acquire()
        finally:
            waiting.put_nowait(None)

    reading = asyncio.create_task(read())
    try:
        while (next_ := await waiting.get()) is not None:
            request, task = next_
            yield request, await task
            room.release()
        await reading
    finally:
        _cancel([reading, *tasks])


def _cancel(tasks: Iterable[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
