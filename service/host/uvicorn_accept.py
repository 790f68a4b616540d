"""Distributes connections evenly over the processes that share a listening socket.

Fault: uvicorn's event loop accepts all connections that wait as soon as it runs. If several
processes share the socket, one of them may get all connections of a client, and the others none.
Processes that cannot serve yet accept, too.

Here a process accepts one connection at a time, and leaves it to another one that is ready and has
fewer connections.

Seen in: uvicorn 0.54.0, uvloop 0.22.1.
Shown by: tests/service/host/test_uvicorn_accept.py.
Can go when: those tests pass with uvicorn's own way of accepting.

Invariants:

- A process that is not ready accepts only if no other process is ready.
- A ready process accepts at once if it has the fewest connections, and otherwise after `_BOUND_S`,
  in case the others are busy.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import uvicorn

from service.host import listen_backlog

if TYPE_CHECKING:
    from service.processes.worker_table import WorkerTable

log = logging.getLogger("ganymede.connections")

# Seconds between two looks at a connection that is left to another process, and seconds after which
# a ready process accepts it nevertheless.
_RETRY_S = 0.001
_BOUND_S = 0.05
# Seconds without accepting after an error of the system, such as too many open files.
_ERROR_PAUSE_S = 1.0


class Listener:
    """Accepts the connections of this process. Except for `leave`, it is used in the event loop.

    It takes the place of an `asyncio.Server` in uvicorn.
    """

    def __init__(
        self, table: WorkerTable, is_ready: Callable[[], bool], is_stopping: Callable[[], bool]
    ) -> None:
        """`table` has the row of this process.

        `is_ready` tells whether this process can serve, and `is_stopping` whether the whole server
        stops.
        """
        self._table = table
        self._is_ready = is_ready
        self._is_stopping = is_stopping
        self._sockets: list[socket.socket] = []
        self._connect: Callable[[socket.socket], Any]
        self._loop: asyncio.AbstractEventLoop
        self._tasks: set[asyncio.Task[None]] = set()
        self._retry: dict[socket.socket, asyncio.TimerHandle] = {}
        # Since when a connection is left to others.
        self._left_since: float | None = None

    def start(self, sockets: Sequence[socket.socket], server: uvicorn.Server) -> None:
        """Accept connections of `sockets`, and serve them with the protocol of `server`."""
        config, state = server.config, server.lifespan.state
        self._loop = asyncio.get_running_loop()
        on_end = self._count_end

        class Protocol(cast("Any", config.http_protocol_class)):  # type: ignore[misc]
            def connection_lost(self, exc: Exception | None) -> None:
                super().connection_lost(exc)
                on_end()

        def create_protocol() -> asyncio.Protocol:
            protocol = Protocol(config=config, server_state=server.server_state, app_state=state)
            return cast("asyncio.Protocol", protocol)

        async def connect(connection: socket.socket) -> None:
            try:
                await self._loop.connect_accepted_socket(
                    create_protocol, connection, ssl=config.ssl
                )
            except OSError as error:
                # The client has gone, or its TLS handshake failed.
                log.debug("connection ended at its start: %s", error)
                connection.close()
                self._count_end()

        self._connect = connect
        self._table.own["accepting"] = 1
        for listener in sockets:
            listener.setblocking(False)
            listen_backlog.accept_new(listener, config.backlog)
            self._sockets.append(listener)
            self._watch(listener)

    def close(self) -> None:
        """Stop accepting. Connections that wait are left to the other processes."""
        for listener in self._sockets:
            if (timer := self._retry.pop(listener, None)) is not None:
                timer.cancel()
            if listener.fileno() != -1:
                self._loop.remove_reader(listener)
        self._sockets.clear()
        self._table.own["accepting"] = 0

    async def wait_closed(self) -> None:
        """Return: `close` takes effect at once."""

    def leave(self) -> bool:
        """Return whether the server stops and no other process accepts connections.

        If the result is False, the others know that this one accepts no more: `close` must follow.
        """
        return not self._table.stop_accepting() and self._is_stopping()

    def refuse_new(self) -> None:
        """Let no process get further connections; accept those that wait."""
        for listener in self._sockets:
            listen_backlog.refuse_new(listener)

    def end(self) -> None:
        """Stop accepting, and refuse connections from now on in all processes."""
        for listener in self._sockets:
            listen_backlog.end(listener)
        self.close()

    def _watch(self, listener: socket.socket) -> None:
        self._retry.pop(listener, None)
        self._loop.add_reader(listener, self._on_waiting, listener)

    def _on_waiting(self, listener: socket.socket) -> None:
        """Accept one connection, or leave it to another process for a moment."""
        if self._leaves_to_others():
            self._pause(listener, _RETRY_S)
            return
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # Another process was faster, or the client has gone.
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                raise
            log.error("cannot accept connections: %s", error.strerror)
            self._pause(listener, _ERROR_PAUSE_S)
            return
        connection.setblocking(False)
        if connection.family in (socket.AF_INET, socket.AF_INET6):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._table.own["connections"] += 1
        task = self._loop.create_task(self._connect(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _pause(self, listener: socket.socket, seconds: float) -> None:
        self._loop.remove_reader(listener)
        self._retry[listener] = self._loop.call_later(seconds, self._watch, listener)

    def _leaves_to_others(self) -> bool:
        """True if another process is ready and has fewer connections, for up to `_BOUND_S`."""
        fewest = self._table.fewest_connections_of_others()
        ready = self._is_ready()
        if fewest is None or (ready and self._table.own["connections"] <= fewest):
            self._left_since = None
            return False
        now = time.monotonic()
        if self._left_since is None:
            self._left_since = now
        if ready and now - self._left_since > _BOUND_S:
            self._left_since = None
            return False
        return True

    def _count_end(self) -> None:
        self._table.own["connections"] -= 1


def install(get_listener: Callable[[], Listener]) -> None:
    """Make a uvicorn server that is created later in this process use `Listener`.

    `get_listener` is called once the application has started.
    """

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            if sockets is None:
                await super().startup()
                return
            await super().startup(sockets=[])
            listener = get_listener()
            listener.start(sockets, self)
            self.servers.append(cast("Any", listener))

    uvicorn.Server = Server  # type: ignore[misc]
