"""How the serving process ends: when it is told to, when a run hangs, when its parent is gone.

BentoML runs two processes: an arbiter, which holds the listening socket and starts the other one
again when it dies, and the worker, in which uvicorn and the engine live. The signals that stop the
service reach the arbiter, which hands SIGTERM on to the worker and waits for it, for a day.

What always holds of the worker:

- From the first signal on it is not ready, and answers new work with 503 and Retry-After, on open
  connections and on new ones.
- What was accepted before is done and answered, unless it takes longer than the time for it.
- It ends within that time and a little more, whatever its clients do.
- A second signal ends it at once. One that follows within a second is the first one again: of
  Ctrl-C the worker hears from the terminal and from the arbiter.
- When a run hangs, nothing can give its slot back: the worker is replaced.
- It does not outlive the arbiter.
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
from typing import NoReturn

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import not_ready
from service.runtime.scheduling.engine import Engine

log = logging.getLogger("ganymede.lifecycle")

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Signals closer together than this are one.
_SAME_STOP_S = 1.0
# How often the hung run and the parent are looked for.
_LOOK_S = 1.0
# New work is answered for at least so long, so that those who send it learn of the stop.
_LINGER_S = 0.3
# Requests without an answer when all accepted work has ended: so long, and they get a 503.
_UNANSWERED_S = 1.0
# The time in which uvicorn lets go of its connections, within what is left.
_CLOSING_S = 2.0
EXIT_HUNG = 70

# What Python gives for a signal that has a handler.
_Handler = Callable[[int, FrameType | None], object]


class Lifecycle:
    """Watches over the worker process, in a thread of its own, and ends it."""

    def __init__(self, engine: Engine, app: ASGIApp, *, drain_s: float, hang_s: float) -> None:
        """Serve `app`, whose work is `engine`'s.

        Accepted work has `drain_s` seconds to end when the process stops, and a run that takes
        longer than `hang_s` seconds counts as hung.
        """
        self._engine = engine
        self._app = app
        self._drain_s = drain_s
        self._hang_s = hang_s
        self._parent = os.getppid()
        self._loop: asyncio.AbstractEventLoop | None = None
        # What the server does at SIGTERM.
        self._servers_handler: _Handler | None = None
        # Requests that have no answer yet, by the task that serves each.
        self._unanswered: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._stopping_since = 0.0
        # Fit for a signal handler, as locks and events are not.
        self._signals: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.hung: str | None = None

    def begin(self) -> None:
        """Take over the signals from the server that runs the event loop of this thread.

        To be called in the main thread, when the server has set its handlers.
        """
        self._loop = asyncio.get_running_loop()
        handler = signal.getsignal(signal.SIGTERM)
        self._servers_handler = handler if callable(handler) else None
        for number in _SIGNALS:
            signal.signal(number, self._on_signal)
        threading.Thread(target=self._watch, name="ganymede-lifecycle", daemon=True).start()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, and note whether it has been answered."""
        task = asyncio.current_task()
        if scope["type"] != "http" or task is None:
            await self._app(scope, receive, send)
            return

        async def note(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._unanswered.discard(task)
                if self._stopping:
                    # The client's next request would find nobody here.
                    message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        self._unanswered.add(task)
        try:
            await self._app(scope, receive, note)
        except asyncio.CancelledError:
            if task not in self._unanswered or not self._stopping:
                raise
            problem = not_ready("the service was stopped before this was done")
            headers = [(k.encode(), v.encode()) for k, v in problem.headers().items()]
            await note({"type": "http.response.start", "status": 503, "headers": headers})
            await send({"type": "http.response.body", "body": problem.body().encode()})
        finally:
            self._unanswered.discard(task)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if not self._stopping:
            self._stopping = True
            self._stopping_since = now
            self._signals.put(number)
        elif now - self._stopping_since > _SAME_STOP_S:
            os._exit(128 + number)

    def _watch(self) -> None:
        while True:
            try:
                number = self._signals.get(timeout=_LOOK_S)
            except queue.Empty:
                pass
            else:
                self._stop(signal.Signals(number).name)
            if os.getppid() != self._parent:
                # Who comes next wants the socket.
                self._stopping = True
                self._close()
                self._stop("the arbiter is gone")
            seconds, model = self._engine.longest_run()
            if seconds > self._hang_s:
                self.hung = f"a run of {model} has not ended for {seconds:.0f} s"
                log.critical("%s: this process is replaced", self.hung)
                self._stopping = True
                self._stop(self.hung, EXIT_HUNG)

    def _stop(self, why: str, code: int = 0) -> NoReturn:
        """End the process: by the server if it comes to that in time, else with `code`."""
        began = time.monotonic()
        end = began + self._drain_s
        log.info("stopping (%s): accepted work has %g s to end", why, self._drain_s)
        reason = f"the service is stopping: {why}"
        self._engine.drain(self._drain_s, reason, permitted_only=True)
        # Whoever has no answer by now has not been accepted, such as an upload that goes on; or
        # the time is over.
        self._wait_for_answers(min(max(began + _LINGER_S, time.monotonic() + _UNANSWERED_S), end))
        time.sleep(max(0.0, began + _LINGER_S - time.monotonic()))
        self._in_loop(self._cancel_unanswered)
        self._close()
        # Answers that clients still read: the server waits for them, and then ends the process.
        time.sleep(max(end - time.monotonic(), _CLOSING_S))
        log.warning("ended with open connections")
        logging.shutdown()
        os._exit(code)

    def _wait_for_answers(self, until: float) -> None:
        while self._unanswered and time.monotonic() < until:
            time.sleep(0.02)

    def _cancel_unanswered(self) -> None:
        for task in list(self._unanswered):
            task.cancel()

    def _close(self) -> None:
        """Let the server close its sockets, finish what it answers, and end the process."""
        if (handler := self._servers_handler) is not None:
            self._in_loop(lambda: handler(signal.SIGTERM, None))

    def _in_loop(self, function: Callable[[], object]) -> None:
        try:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(function)
        except RuntimeError:
            pass  # The loop is closed: the server has ended.
