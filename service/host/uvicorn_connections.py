"""Connections that cannot be held open for nothing: limits below HTTP's requests and answers.

uvicorn's own protocol reads headers of any size for any time, and keeps what a client does not read
of its answer in memory for as long as the client likes. No middleware sees either: it is asked when
the headers are whole, and an answer in one part has left it at once. So the protocol is extended
here, in the callbacks that asyncio and the parser give it, and put where uvicorn looks for it.

Nor is any other protocol spoken here than HTTP/1.1, so a request to change to one is answered as if
it had not asked, as RFC 9110 (7.8) allows. uvicorn drops such a request's body, and Java's client
asks for HTTP/2 with the first of every connection.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any, cast

import httptools
import uvicorn.config
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.settings import Settings

log = logging.getLogger("ganymede.connections")

# What BentoML answers.
PROBES = frozenset(["/livez", "/readyz", "/healthz"])
# What a client has to take of its answer within the time that it has.
PROGRESS_BYTES = 2**20


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with bounds on headers and on clients that do not read, and no other.

    The bounds are the class's: uvicorn makes the instances.
    """

    max_header_bytes = 32 * 2**10
    header_timeout_s = 30.0
    write_timeout_s = 30.0
    straight: ASGIApp | None = None

    _head = 0
    _in_head = True
    _has_begun = False
    _too_large = False
    # What came with a request to change the protocol, as it is read instead.
    _unread = b""
    _fed = b""
    _waiting: asyncio.TimerHandle | None = None
    _writing: asyncio.TimerHandle | None = None

    def __init__(self, *given: Any, **named: Any) -> None:
        """Take what uvicorn gives."""
        super().__init__(*given, **named)
        if self.straight is not None:
            app = self.straight
            if self.config.proxy_headers:
                # As uvicorn does for the host.
                trusted = self.config.forwarded_allow_ips
                app = cast("ASGIApp", ProxyHeadersMiddleware(cast("Any", app), trusted))
            self.app = Front(app, self.app)

    # Headers

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for headers."""
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        """Parse, and refuse headers that grow and grow."""
        while data:
            self._fed, self._unread = data, b""
            self._parse(data)
            data = self._unread
        self._fed = b""

    def _parse(self, data: bytes) -> None:
        before = self._head
        self._has_begun = False
        super().data_received(data)
        if self._unread or self.transport.is_closing():
            return
        if self._in_head:
            if not self._has_begun:
                # All of it was headers, also what the parser holds back until the line is whole.
                self._head = before + len(data)
            if self._head > self.max_header_bytes:
                self._refuse_head()
        elif self.cycle.response_complete and self._waiting is None:
            # The rest of a body that nobody wanted, for which uvicorn has no bound.
            self._wait_for_client()

    def on_message_begin(self) -> None:
        """Begin to wait for headers, those of a later request too."""
        super().on_message_begin()
        self._has_begun = True
        self._head = 0
        self._expect_head()

    def on_url(self, url: bytes) -> None:
        """Count."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count, with the colon, the space and the end of the line."""
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def _should_upgrade(self) -> bool:
        # uvicorn then leaves the request, and what follows on its headers, to the method below.
        return True

    def handle_websocket_upgrade(self) -> None:
        """Read the request once more, without the header that asks for another protocol."""
        asked = sys.exception()
        method = self.parser.get_method()
        if not isinstance(asked, httptools.HttpParserUpgrade) or method == b"CONNECT":
            self.send_400_response("Invalid HTTP request received.")
            return
        (rest,) = asked.args
        version = self.parser.get_http_version().encode()
        head = [b"%s %s HTTP/%s\r\n" % (method, self.url, version)]
        head += [b"%s: %s\r\n" % each for each in self.headers if each[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        # As uvicorn has it.
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._unread = b"".join(head) + b"\r\n" + self._fed[rest:]

    def on_headers_complete(self) -> None:
        """Stop waiting, and watching: there will be another answer."""
        self._in_head = False
        self._stop_waiting()
        if not self.flow.write_paused:
            self._stop_watching()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Say what is wrong with the headers, where it is their size."""
        if not self._too_large:
            super().send_400_response(msg)
            return
        most = f"the request line and the headers have more than {self.max_header_bytes:,} bytes"
        self._answer_and_close("431 Request Header Fields Too Large", most)

    def _count(self, size: int) -> None:
        self._head += size
        if self._head > self.max_header_bytes:
            self._too_large = True
            # The parser makes its own error of it, and that ends in `send_400_response`.
            raise ValueError("the headers are too large")

    def _expect_head(self) -> None:
        self._in_head = True
        self._wait_for_client()

    def _wait_for_client(self) -> None:
        self._stop_waiting()
        self._waiting = self.loop.call_later(self.header_timeout_s, self._too_slow)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _too_slow(self) -> None:
        if self.transport.is_closing():
            return
        if self._in_head and self._head:
            self._answer_and_close("408 Request Timeout", "the headers came too slowly")
        else:
            self.transport.close()

    def _refuse_head(self) -> None:
        self._too_large = True
        self.send_400_response("")

    def _answer_and_close(self, status: str, text: str) -> None:
        self._stop_waiting()
        if self.cycle is None or self.cycle.response_complete:
            head = f"HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\n"
            head += f"content-length: {len(text)}\r\nconnection: close\r\n\r\n"
            self.transport.write((head + text).encode("ascii"))
        # Else an answer to an earlier request is on its way, and this would be taken for its rest.
        self.transport.close()

    # Clients that do not read

    def pause_writing(self) -> None:
        """Begin to watch: more waits to be taken than uvicorn lets wait."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """Stop watching: nearly all is taken, and more may be written."""
        self._stop_watching()
        super().resume_writing()
        if self.cycle is not None and self.cycle.response_complete:
            self._watch()

    def on_response_complete(self) -> None:
        """Begin to watch what is left of an answer, even if it is little."""
        super().on_response_complete()
        self._watch()

    def _watch(self) -> None:
        self._stop_watching()
        if unsent := self.transport.get_write_buffer_size():
            self._writing = self.loop.call_later(self.write_timeout_s, self._look, unsent)

    def _stop_watching(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None

    def _look(self, unsent: int) -> None:
        left = self.transport.get_write_buffer_size()
        # Nothing is written while this watches, so the difference is what the client has taken.
        if left == 0 or unsent - left >= PROGRESS_BYTES:
            self._watch()
            return
        self._writing = None
        log.info("cut off a client that left %d bytes of its answer unread", left)
        # A close would wait for the client to read the rest.
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all watches."""
        self._stop_waiting()
        self._stop_watching()
        super().connection_lost(exc)


class Front:
    """ASGI application that leaves the probes to the host, and all else to the application.

    The host's own way to a mounted application makes a task and a timer for each request, which
    outlives it by a minute, and looks up its routes: a third of what answering a small picture
    costs. None of it is needed: the application has its own deadlines, metrics and traces.
    """

    def __init__(self, app: ASGIApp, host: ASGIApp) -> None:
        self._app = app
        self._host = host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] == "http" and scope["path"] not in PROBES:
            await self._app(scope, receive, send)
        else:
            await self._host(scope, receive, send)


def guard(settings: Settings, app: ASGIApp | None = None) -> None:
    """Make uvicorn, which is yet to be started in this process, use connections with bounds.

    All but the probes goes straight to `app`, where there is one.
    """
    bounds: dict[str, Any] = {
        "max_header_bytes": settings.max_header_bytes,
        "header_timeout_s": settings.body_timeout_s,
        "write_timeout_s": settings.write_timeout_s,
        # Else it would be a method of the connections, and be called with one.
        "straight": app and staticmethod(app),
    }
    for name, value in bounds.items():
        setattr(GuardedProtocol, name, value)
    where = f"{GuardedProtocol.__module__}:{GuardedProtocol.__qualname__}"
    uvicorn.config.HTTP_PROTOCOLS["auto"] = where
