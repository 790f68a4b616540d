"""Sends the head and the body of a response together.

Fault: uvicorn writes the head of a response and its body separately, and uvloop sends each at once:
two system calls and two packets, each of which wakes the client.

Seen in: uvicorn 0.54.0, uvloop 0.23.0.
Shown by: tests/service/host/test_uvicorn_writes.py.
Can go when: that test passes without `JoinedWrites`.
"""

from __future__ import annotations

import asyncio
from typing import cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class JoinedWrites(HttpToolsProtocol):
    """Joins what a response writes in pairs, or until the end of the event loop's iteration."""

    def on_headers_complete(self) -> None:
        """Give the request's cycle, which has not started yet, a transport that joins writes."""
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is not before:
            joining = _JoiningTransport(self.transport, self.loop)
            self.cycle.transport = cast("asyncio.Transport", joining)


class _JoiningTransport:
    """The part of a transport that uvicorn uses to send a response."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._first: bytes | None = None

    def write(self, data: bytes) -> None:
        """Send `data` with the write before or after it."""
        if self._first is None:
            self._first = data
            self._loop.call_soon(self._flush)
        else:
            first, self._first = self._first, None
            self._transport.writelines((first, data))

    def close(self) -> None:
        """Close the connection after everything has been sent."""
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """Return whether the connection is closed or being closed."""
        return self._transport.is_closing()

    def _flush(self) -> None:
        if self._first is not None:
            first, self._first = self._first, None
            self._transport.write(first)
