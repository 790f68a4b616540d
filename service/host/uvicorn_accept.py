"""Accepts connections: all that wait, but of several processes each only its share.

Faults: uvicorn's event loops accept whatever waits. Asyncio's accepts all, so that one of several
processes may get all connections, and the others none. libuv accepts one in each iteration of its
loop; an iteration handles all requests that have arrived, so the last of 128 clients that connect
together waits for seconds, while the first are served again and again. Processes that cannot serve
yet accept, too.

Seen in: uvicorn 0.54.0, uvloop 0.23.0 (libuv 1.52).
Shown by: tests/service/host/test_uvicorn_accept.py, and the p99 of benchmarks/overhead.py.
Can go when: those tests pass with uvicorn's own way of accepting.

Invariants:

- A process that is not ready accepts only if no other process is ready: a client rather waits for
  one that pauses for some seconds than gets an error.
- A ready process accepts at once until it has its share of all connections, and more after
  `_BOUND_S`, in case the others are busy.
- It closes connections beyond its share after a response, so that their clients connect again: a
  process that has started later gets its share of clients that keep their connections open.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import socket
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import uvicorn

from service.addresses import url_of
from service.host import listen_backlog

if TYPE_CHECKING:
    from service.processes.server_folder import ServerFolder
    from service.processes.worker_table import WorkerTable

log = logging.getLogger("ganymede.connections")

# Connections accepted at a time. The event loop also has to serve those that are open.
_MAX_ACCEPTED = 64
# Connections beyond its share that a process keeps: at least these, and this part of its share.
_KEPT, _KEPT_PART = 1, 0.125
# Seconds between two looks at a connection that is left to another process, and seconds after which
# a ready process accepts it nevertheless.
_RETRY_S = 0.001
_BOUND_S = 0.05
# Seconds in which the first request of a connection usually arrives and is parsed.
_FIRST_REQUEST_S = 1.0
# Seconds without accepting after an error of the system, such as too many open files.
_ERROR_PAUSE_S = 1.0


class Listener:
    """Accepts the connections of this process. All methods are called in the event loop, except
    for `leave`, `refuse_new` and `expects_requests`.

    It takes the place of an `asyncio.Server` in uvicorn.
    """

    def __init__(
        self, table: WorkerTable, is_ready: Callable[[], bool], folder: ServerFolder
    ) -> None:
        """`table` has the row of this process. `is_ready` tells whether this process can serve."""
        self._table = table
        self._is_ready = is_ready
        self._folder = folder
        self._sockets: list[socket.socket] = []
        # The open connections; replaced by uvicorn's set.
        self._protocols: set[Any] = set()
        self._connect: Callable[[socket.socket], Any]
        self._loop: asyncio.AbstractEventLoop
        self._tasks: set[asyncio.Task[None]] = set()
        self._retry: dict[socket.socket, asyncio.TimerHandle] = {}
        # Since when a connection is left to others.
        self._left_since: float | None = None
        # Where a browser on this machine finds the server; None before `start`, and for a socket
        # that is not an Internet socket.
        self.url: str | None = None
        # The IP address on which the server listens; None before `start`, as for `url`.
        self.address: str | None = None

    def start(self, sockets: Sequence[socket.socket], server: uvicorn.Server) -> None:
        """Accept connections of `sockets`, and serve them with the protocol of `server`."""
        config, state = server.config, server.lifespan.state
        self._loop = asyncio.get_running_loop()
        on_end = self._count_end
        urls = (url_of(each, "https" if config.is_ssl else "http") for each in sockets)
        self.url = next(filter(None, urls), None)
        internet = (each for each in sockets if each.family in (socket.AF_INET, socket.AF_INET6))
        self.address = next((each.getsockname()[0] for each in internet), None)

        class Protocol(cast("Any", config.http_protocol_class)):  # type: ignore[misc]
            def connection_made(self, transport: asyncio.Transport) -> None:
                self.opened = time.monotonic()
                super().connection_made(transport)

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
            except BaseException:
                # It has no protocol that would count its end.
                connection.close()
                self._count_end()
                raise

        self._connect = connect
        self._protocols = cast("set[Any]", server.server_state.connections)
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

    def excess(self) -> int:
        """Return how many connections to close now because other processes have fewer."""
        others = self._table.connections_of_others()
        own = int(self._table.own["connections"])
        share = math.ceil((own + sum(others)) / (1 + len(others)))
        excess = own - share
        # A part at a time: meanwhile the others accept, and the numbers change.
        return excess // 4 + 1 if excess > max(_KEPT, share * _KEPT_PART) else 0

    def leave(self) -> bool:
        """Return whether the server stops and no other process accepts connections.

        If the result is False, the others know that this one accepts no more: `close` must follow.
        """
        return not self._table.stop_accepting() and self._folder.is_stopping

    def refuse_new(self) -> None:
        """Let no process get further connections; accept those that wait."""
        for listener in self._sockets:
            listen_backlog.refuse_new(listener)

    def expects_requests(self, last: bool) -> bool:
        """Return whether a new connection waits to be accepted by the last process, or is so new
        that its first request may be on its way.
        """
        listens = list(self._sockets)
        # A process that is not the last one is about to close its sockets.
        if self._tasks or (listens and not last) or any(map(listen_backlog.count_waiting, listens)):
            return True
        newest = time.monotonic() - _FIRST_REQUEST_S
        return any(each.cycle is None and each.opened > newest for each in list(self._protocols))

    def end(self) -> None:
        """Stop accepting, and refuse connections from now on in all processes."""
        for listener in self._sockets:
            listen_backlog.end(listener)
        self.close()

    def remove_folder(self) -> None:
        """Remove the folder that the processes share, because their supervisor cannot."""
        self._folder.remove()

    def _watch(self, listener: socket.socket) -> None:
        self._retry.pop(listener, None)
        self._loop.add_reader(listener, self._on_waiting, listener)

    def _on_waiting(self, listener: socket.socket) -> None:
        """Accept connections, or leave them to other processes for a moment."""
        allowed = self._allowed(listener)
        if not allowed:
            self._pause(listener, _RETRY_S)
        for _ in range(min(allowed, _MAX_ACCEPTED)):
            try:
                connection, _ = listener.accept()
            except (BlockingIOError, InterruptedError):
                return  # None waits, or another process was faster.
            except ConnectionAbortedError:
                continue  # The client has gone.
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    raise
                log.error("cannot accept connections: %s", error.strerror)
                self._pause(listener, _ERROR_PAUSE_S)
                return
            self._open(connection)

    def _open(self, connection: socket.socket) -> None:
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

    def _allowed(self, listener: socket.socket) -> int:
        """Return the number of connections to accept now; 0 leaves all to other processes."""
        ready = self._is_ready()
        others = self._table.connections_of_others(even_paused=not ready)
        if not others:
            self._left_since = None
            return _MAX_ACCEPTED
        waiting = listen_backlog.count_waiting(listener)
        if ready:
            own = int(self._table.own["connections"])
            allowed = math.ceil((own + sum(others) + waiting) / (1 + len(others))) - own
            if allowed > 0:
                self._left_since = None
                return allowed
        now = time.monotonic()
        if self._left_since is None:
            self._left_since = now
        if not ready or now - self._left_since < _BOUND_S:
            return 0
        self._left_since = None
        return math.ceil(waiting / (1 + len(others)))

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
