"""Ends a worker process: on a signal, when a model run hangs, or when its supervisor has died.

`bentoml serve` runs a supervisor and workers. The supervisor (circus's arbiter) holds the listening
socket and replaces workers that die. In each worker, uvicorn and an engine run. Signals reach the
supervisor, which passes SIGTERM on to all workers and waits for them.

Faults: on a signal, uvicorn closes its sockets at once, so that new requests fail instead of
getting a 503, and it waits indefinitely for clients that do not read. Neither uvicorn nor circus
detects a hung run, and the worker does not end when its supervisor is killed.

Seen in: bentoml 1.4.39, circus 0.18.3 (distribution kantoku), uvicorn 0.54.0.
Shown by: tests/service/host/test_shutdown.py.
Can go when: those tests pass with uvicorn's own shutdown.

Invariants of a worker:

- After the first signal it is not ready. New requests get 503 with Retry-After, on open and on
  new connections.
- Requests that were accepted earlier are completed, unless that exceeds the drain time.
- When the whole server stops, the last worker that accepts connections responds to all that wait in
  the backlog of the listening socket, before it closes it.
- It ends within the drain time plus a few seconds, even if clients do not read.
- A second signal ends it at once. Signals within one second count as one: Ctrl-C reaches the
  worker from the terminal and from the supervisor.
- If a run hangs, its thread cannot be freed, so the process ends and is replaced.
- It does not outlive its supervisor.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import NoReturn, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import not_ready
from service.runtime.scheduling.engine import Engine

log = logging.getLogger("ganymede.shutdown")

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Signals closer together than this count as one.
_SAME_SIGNAL_S = 1.0
# The interval in seconds at which hung runs and the parent process are checked.
CHECK_S = 1.0
# New requests get a 503 for at least this long, so that load balancers see it.
_MIN_REFUSE_S = 0.3
# Seconds for the requests of connections that were accepted last, or are being opened, to arrive:
# the least, and the most if some are known to wait.
_BACKLOG_S, _MAX_BACKLOG_S = 0.2, 3.0
# Once all accepted work is done, requests that still have no response, such as incomplete uploads,
# get a 503 after this many seconds.
_UNANSWERED_S = 1.0
# Seconds that uvicorn has to close its connections, within the remaining time.
_CLOSE_S = 2.0
EXIT_HUNG = 70

# The type of a signal handler, as `signal.getsignal` returns it.
_SignalHandler = Callable[[int, FrameType | None], object]


class Connections(Protocol):
    """The listening socket, as seen by one of the processes that share it."""

    def leave(self) -> bool:
        """Return whether the server stops and no other process accepts connections."""

    def close(self) -> None:
        """Accept no more connections in this process."""

    def refuse_new(self) -> None:
        """Let no process get further connections; accept those that wait."""

    def expects_requests(self, last: bool) -> bool:
        """Return whether a new connection waits to be accepted by the last process, or is so new
        that its first request may be on its way.
        """

    def end(self) -> None:
        """Refuse connections in all processes."""

    def remove_folder(self) -> None:
        """Remove the folder that the processes share, because their supervisor cannot."""


class GracefulShutdown:
    """ASGI application around `app` that tracks requests, and a thread that ends the process."""

    def __init__(
        self,
        engine: Engine,
        app: ASGIApp,
        connections: Connections,
        *,
        drain_s: float,
        hang_s: float,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Serve `app`, which runs models in `engine`, to `connections`.

        `drain_s` is the time in seconds for accepted work to complete. A run longer than `hang_s`
        seconds counts as hung. `check` is called every `CHECK_S` seconds.
        """
        self._check = check
        self._connections = connections
        self._engine = engine
        self._app = app
        self._drain_s = drain_s
        self._hang_s = hang_s
        self._parent = os.getppid()
        self._loop: asyncio.AbstractEventLoop | None = None
        # uvicorn's SIGTERM handler.
        self._server_handler: _SignalHandler | None = None
        # The tasks of requests whose response has not started.
        self._unanswered: set[asyncio.Task[None]] = set()
        self._stopping = False
        # When the first signal arrived; 0 before.
        self._signaled_at = 0.0
        # Safe to use in a signal handler, unlike locks and events.
        self._reasons: queue.SimpleQueue[str] = queue.SimpleQueue()
        # The number of responses after which to close the connection, so that the client opens
        # another one, which a less busy process accepts.
        self.close_next = 0
        # The reason why `/livez` fails; None unless a run hangs.
        self.hang_reason: str | None = None

    def start(self) -> None:
        """Replace the server's signal handlers, and start the thread.

        Must be called in the main thread, while its event loop runs, after the server has installed
        its handlers.
        """
        self._loop = asyncio.get_running_loop()
        handler = signal.getsignal(signal.SIGTERM)
        self._server_handler = handler if callable(handler) else None
        for number in _SIGNALS:
            signal.signal(number, self._on_signal)
        threading.Thread(target=self._watch, name="ganymede-shutdown", daemon=True).start()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, and track whether its response has started."""
        task = asyncio.current_task()
        if scope["type"] != "http" or task is None:
            await self._app(scope, receive, send)
            return

        async def track_start(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._unanswered.discard(task)
                # HTTP/2, and so gRPC, has another way.
                if (self._stopping or self.close_next) and scope.get("http_version") != "2":
                    # The socket will be closed before the client's next request.
                    self.close_next -= self.close_next > 0
                    message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        self._unanswered.add(task)
        try:
            await self._app(scope, receive, track_start)
        except asyncio.CancelledError:
            if task not in self._unanswered or not self._stopping:
                raise
            problem = not_ready("the service stopped before this request was complete")
            headers = [(k.encode(), v.encode()) for k, v in problem.headers().items()]
            await track_start({"type": "http.response.start", "status": 503, "headers": headers})
            await send({"type": "http.response.body", "body": problem.body().encode()})
        finally:
            self._unanswered.discard(task)

    def end(self, why: str) -> None:
        """Complete the accepted work, and end the process."""
        self._stopping = True
        self._reasons.put(why)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if not self._signaled_at:
            self._signaled_at = now
            # The process may be ending already, for another reason.
            self._stopping = True
            self._reasons.put(signal.Signals(number).name)
        elif now - self._signaled_at > _SAME_SIGNAL_S:
            os._exit(128 + number)

    def _watch(self) -> None:
        while True:
            try:
                why = self._reasons.get(timeout=CHECK_S)
            except queue.Empty:
                pass
            else:
                self._stop(why)
            if os.getppid() != self._parent:
                # Free the socket at once for a service that is started next.
                self._stopping = True
                self._connections.remove_folder()
                self._close_server()
                self._stop("the supervisor has died")
            seconds, model = self._engine.longest_run()
            if seconds > self._hang_s:
                self.hang_reason = f"a run of {model} has not ended for {seconds:.0f} s"
                log.critical("%s: this process is replaced", self.hang_reason)
            # Ends this process at once if the run hangs in the event loop's thread.
            self._check()
            if self.hang_reason is not None:
                self._stopping = True
                self._stop(self.hang_reason, EXIT_HUNG)

    def _stop(self, why: str, exit_code: int = 0) -> NoReturn:
        """Drain, then end the process: through the server if time allows, else at once."""
        started = time.monotonic()
        end = started + self._drain_s
        log.info("stopping (%s): accepted work has %g s to complete", why, self._drain_s)
        reason = f"the service is stopping: {why}"
        self._engine.drain(self._drain_s, reason, permitted_only=True)
        # Requests without a response were not accepted, or exceed the drain time.
        refuse_until = started + _MIN_REFUSE_S
        self._wait_for_responses(min(max(refuse_until, time.monotonic() + _UNANSWERED_S), end))
        time.sleep(max(0.0, refuse_until - time.monotonic()))
        self._end_connections(end)
        self._call_in_loop(self._cancel_unanswered)
        self._close_server()
        # The server waits for clients that still read their responses, then ends the process.
        time.sleep(max(end - time.monotonic(), _CLOSE_S))
        log.warning("ended with open connections")
        logging.shutdown()
        os._exit(exit_code)

    def _end_connections(self, end: float) -> None:
        """Accept no more connections, and respond to those that were accepted, until `end`."""
        last = self._connections.leave()
        if last:
            self._connections.refuse_new()
        else:
            self._call_in_loop(self._connections.close)
        time.sleep(_BACKLOG_S)
        until = min(time.monotonic() + _MAX_BACKLOG_S, end)
        while time.monotonic() < until and self._connections.expects_requests(last):
            time.sleep(0.02)
        self._wait_for_responses(min(time.monotonic() + _UNANSWERED_S, end))
        if last:
            self._call_in_loop(self._connections.end)

    def _wait_for_responses(self, until: float) -> None:
        while self._unanswered and time.monotonic() < until:
            time.sleep(0.02)

    def _cancel_unanswered(self) -> None:
        for task in list(self._unanswered):
            task.cancel()

    def _close_server(self) -> None:
        """Let the server close its sockets, finish its responses, and end the process."""
        if (handler := self._server_handler) is not None:
            self._call_in_loop(lambda: handler(signal.SIGTERM, None))

    def _call_in_loop(self, function: Callable[[], object]) -> None:
        try:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(function)
        except RuntimeError:
            pass  # The loop is closed: the server has ended.
