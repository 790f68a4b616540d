"""Limits the size of a request's headers, and the time in which they must arrive.

Fault: uvicorn reads headers without a limit on their size or time, and does not limit how much of
an unread request body it discards. Middleware cannot fix this: it runs once the headers are
complete.

Seen in: uvicorn 0.54.0 (`h11_max_incomplete_event_size` exists only for its other parser).
Shown by: tests/service/api/middleware/test_limits.py::test_slow_headers_end_the_connection and
::test_large_headers_get_431.
Can go when: those tests pass without `HeaderLimits`, by settings of uvicorn.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class HeaderLimits(HttpToolsProtocol):
    """Responds 431 to headers that are too large, and 408 to headers that arrive too slowly.

    The limits are class attributes, because uvicorn creates the instances.
    """

    max_header_bytes = 32 * 2**10
    header_timeout_s = 30.0

    _header_bytes = 0
    _reading_headers = True
    _message_began = False
    _headers_too_large = False
    _header_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer for the headers of the first request."""
        super().connection_made(transport)
        self._start_header_timer()

    def data_received(self, data: bytes) -> None:
        """Parse `data`, and count it while the headers are incomplete."""
        bytes_before = self._header_bytes
        self._message_began = False
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._reading_headers:
            if not self._message_began:
                # The parser reports complete header lines only, so count the received bytes.
                self._header_bytes = bytes_before + len(data)
            if self._header_bytes > self.max_header_bytes:
                self._headers_too_large = True
                self.send_400_response("")
            elif self._header_timer is None:
                self._start_header_timer()
        elif self.cycle is not None and self.cycle.response_complete and self._header_timer is None:
            # The rest of a body that the application did not read.
            self._start_header_timer()

    def on_message_begin(self) -> None:
        """Note that headers follow. Their timer only starts if they are not complete yet."""
        super().on_message_begin()
        self._message_began = True
        self._header_bytes = 0
        self._reading_headers = True
        self._stop_header_timer()

    def on_url(self, url: bytes) -> None:
        """Count the URL."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header, with its colon, space and line break."""
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Stop the header timer."""
        self._reading_headers = False
        self._stop_header_timer()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Respond 431 if the headers are too large, otherwise 400."""
        if not self._headers_too_large:
            super().send_400_response(msg)
            return
        text = f"the request line and the headers exceed {self.max_header_bytes:,} bytes"
        self._respond_and_close("431 Request Header Fields Too Large", text)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the header timer."""
        self._stop_header_timer()
        super().connection_lost(exc)

    def _count(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > self.max_header_bytes:
            self._headers_too_large = True
            # The parser converts this to an error of its own, which leads to `send_400_response`.
            raise ValueError("the headers are too large")

    def _start_header_timer(self) -> None:
        self._stop_header_timer()
        self._header_timer = self.loop.call_later(self.header_timeout_s, self._on_header_timeout)

    def _stop_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _on_header_timeout(self) -> None:
        if self.transport.is_closing():
            return
        if self._reading_headers and self._header_bytes:
            self._respond_and_close("408 Request Timeout", "the headers arrived too slowly")
        else:
            self.transport.close()

    def _respond_and_close(self, status: str, text: str) -> None:
        self._stop_header_timer()
        if self.cycle is None or self.cycle.response_complete:
            head = f"HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\n"
            head += f"content-length: {len(text)}\r\nconnection: close\r\n\r\n"
            self.transport.write((head + text).encode("ascii"))
        # Only if no earlier response is being sent: the client would read this as a part of it.
        self.transport.close()
