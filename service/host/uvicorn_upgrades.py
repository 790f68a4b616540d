"""Serves requests for a protocol upgrade in HTTP/1.1, without the upgrade.

Fault: uvicorn drops the body of a request whose `Upgrade` header it does not support. Java's
HttpClient requests HTTP/2 (`h2c`) in the first request of every connection. RFC 9110 (7.8) allows a
server to ignore the header, as is done here: the request is parsed again without it.

Seen in: uvicorn 0.54.0.
Shown by: tests/service/api/middleware/test_limits.py::test_ignores_upgrade_requests.
Can go when: that test passes without `IgnoreUpgrades`.
"""

from __future__ import annotations

import sys

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class IgnoreUpgrades(HttpToolsProtocol):
    """Parses upgrade requests a second time, without their `Upgrade` header."""

    _chunk = b""
    # Remaining input: the request without the header, and the bytes after it.
    _reparse = b""

    def data_received(self, data: bytes) -> None:
        """Parse `data`; if it starts with an upgrade request, parse it again without the header."""
        while data:
            self._chunk, self._reparse = data, b""
            super().data_received(data)
            data = self._reparse
        self._chunk = b""

    def _should_upgrade(self) -> bool:
        # Makes uvicorn call `handle_websocket_upgrade` instead of serving the request itself.
        return True

    def handle_websocket_upgrade(self) -> None:
        """Rebuild the request without the header.

        Called while the parser's exception is handled. Its argument is the offset of the first byte
        after the headers.
        """
        error = sys.exception()
        method = self.parser.get_method()
        if not isinstance(error, httptools.HttpParserUpgrade) or method == b"CONNECT":
            self.send_400_response("Invalid HTTP request received.")
            return
        (offset,) = error.args
        version = self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s\r\n" % (method, self.url, version)]
        lines += [b"%s: %s\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        # The setting that uvicorn applies to its parser.
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._reparse = b"".join(lines) + b"\r\n" + self._chunk[offset:]
