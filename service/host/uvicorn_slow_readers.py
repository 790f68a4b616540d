"""Closes connections whose client does not read its response.

Fault: uvicorn keeps unread responses in memory for as long as the connection lasts. Middleware
cannot fix this: it hands over a response in one part immediately.

Seen in: uvicorn 0.54.0.
Shown by: tests/faults/test_clients.py::test_clients_that_do_not_read_are_disconnected.
Can go when: that test passes without `SlowReaderTimeout`, by a setting of uvicorn.
"""

from __future__ import annotations

import asyncio
import logging

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

log = logging.getLogger("ganymede.connections")

# Bytes that a client must read within the timeout, unless fewer are left.
PROGRESS_BYTES = 2**20


class SlowReaderTimeout(HttpToolsProtocol):
    """Aborts a connection if the client reads less than `PROGRESS_BYTES` per `write_timeout_s`.

    The timeout is a class attribute, because uvicorn creates the instances.
    """

    write_timeout_s = 30.0

    _write_timer: asyncio.TimerHandle | None = None

    def pause_writing(self) -> None:
        """Start the timer: uvicorn's write buffer is full."""
        super().pause_writing()
        self._start_write_timer()

    def resume_writing(self) -> None:
        """Stop the timer: the buffer is nearly empty, and the application may continue."""
        self._stop_write_timer()
        super().resume_writing()
        if self.cycle is not None and self.cycle.response_complete:
            self._start_write_timer()

    def on_response_complete(self) -> None:
        """Start the timer for the rest of the response."""
        super().on_response_complete()
        self._start_write_timer()

    def on_headers_complete(self) -> None:
        """Stop the timer: another response will follow."""
        if not self.flow.write_paused:
            self._stop_write_timer()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        self._stop_write_timer()
        super().connection_lost(exc)

    def _start_write_timer(self) -> None:
        self._stop_write_timer()
        if unread := self.transport.get_write_buffer_size():
            self._write_timer = self.loop.call_later(
                self.write_timeout_s, self._check_progress, unread
            )

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _check_progress(self, unread_before: int) -> None:
        unread = self.transport.get_write_buffer_size()
        # Nothing is written while the timer runs, so the difference is what the client has read.
        if unread == 0 or unread_before - unread >= PROGRESS_BYTES:
            self._start_write_timer()
            return
        self._write_timer = None
        log.info("closed a connection whose client left %d bytes of its response unread", unread)
        # `close` would wait for the client to read the rest.
        self.transport.abort()
