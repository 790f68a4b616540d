"""Accepts all connections that wait, instead of one for each iteration of the event loop.

Fault: libuv accepts one connection in each iteration of its loop. An iteration handles all requests
that have arrived, so the last of 128 clients that connect together waits for 128 iterations, each
longer than the one before, while the first clients are served again and again. That took seconds,
when the median response took 0.2.

Seen in: uvloop 0.23.0 (libuv 1.52).
Shown by: tests/service/host/test_uvloop_accept.py, and the p99 of benchmarks/overhead.py.
Can go when: that test passes without `AcceptWaiting`.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# Connections accepted at a time. The event loop also has to serve those that are open.
_MAX_ACCEPTED = 64

# The listening sockets of the server in this process.
_listeners: list[socket.socket] = []
# Connections that are being opened. The event loop itself does not keep its tasks.
_opening: set[asyncio.Task[Any]] = set()


class AcceptWaiting(HttpToolsProtocol):
    """Accepts the connections that wait when libuv has accepted one.

    `accepts_waiting` is a class attribute, because uvicorn creates the instances. It is False if
    processes share the socket: the one that wakes first would take all connections.
    """

    accepts_waiting = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept the other connections."""
        super().connection_made(transport)
        if self.accepts_waiting:
            self._accept_waiting()

    def _accept_waiting(self) -> None:
        for listener in _listeners:
            for _ in range(_MAX_ACCEPTED):
                try:
                    connection, _ = listener.accept()
                except OSError:  # None waits, or the socket is closed.
                    break
                opening = self.loop.connect_accepted_socket(self._another, connection)
                task = self.loop.create_task(opening)
                _opening.add(task)
                task.add_done_callback(_opened)

    def _another(self) -> AcceptWaiting:
        """Return the protocol of a connection that was accepted here."""
        protocol = type(self)(self.config, self.server_state, self.app_state)
        protocol.accepts_waiting = False
        return protocol


def note_listeners() -> None:
    """Make uvicorn's servers record their listening sockets when they start."""
    start = uvicorn.Server.startup

    async def startup(server: uvicorn.Server, sockets: list[socket.socket] | None = None) -> None:
        await start(server, sockets)
        _listeners[:] = sockets or ()

    uvicorn.Server.startup = startup  # type: ignore[method-assign, assignment]


def _opened(task: asyncio.Task[Any]) -> None:
    _opening.discard(task)
    if not task.cancelled():
        # Marks an error as seen: the client has already disconnected.
        task.exception()
