"""What both clients share: the address, the key, and the translation to and from httpx."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from ganymede_client.errors import ConnectionFailed, GanymedeError, RequestTimedOut
from ganymede_client.retries import RetryPolicy
from ganymede_client.version import __version__
from ganymede_client.wire.calls import Reply, Request

URL_VARIABLE, KEY_VARIABLE = "GANYMEDE_URL", "GANYMEDE_API_KEY"
# Every route accepts it; `deadline` of a client sets it.
DEADLINE_HEADER = "X-Deadline-Ms"
# Every route that generates accepts it; `priority` of a client sets it.
PRIORITY_HEADER = "X-Priority"
PRIORITIES = ("high", "normal", "low")
DEFAULT_URL = "http://localhost:3000"
_CONNECT_S = 10.0
# The service sends comments between events, at least every 15 s.
_SILENT_S = 45.0


@dataclass(frozen=True)
class Connection:
    """How a client reaches the service.

    Attributes:
        url: without a trailing slash.
        timeout: seconds without any progress after which a request has failed.
        deadline: seconds after which the service stops to work on a request; None for its own
            deadline.
        priority: the priority of requests when the service is busy; None for its default.
    """

    url: str
    key: str | None = field(repr=False)
    timeout: float
    deadline: float | None
    retries: RetryPolicy
    priority: str | None = None

    @classmethod
    def create(
        cls,
        url: str | None,
        key: str | None,
        timeout: float,
        deadline: float | None,
        retry_for: float,
        priority: str | None = None,
    ) -> Connection:
        """Validate the arguments; the environment gives those that are None. Raises ValueError."""
        url = (url or os.environ.get(URL_VARIABLE) or DEFAULT_URL).strip().rstrip("/")
        key = (key or os.environ.get(KEY_VARIABLE) or "").strip() or None
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise ValueError(f"url: {error}") from error
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ValueError(f"url: expected http://host:port or https://host, got {url!r}")
        if parsed.port is not None and not 0 < parsed.port < 2**16:
            # The operating system would connect to the port modulo 2¹⁶.
            raise ValueError(f"url: expected a port from 1 to 65535, got {parsed.port}")
        if parsed.query or parsed.fragment:
            raise ValueError(f"url: expected no query and no fragment, got {url!r}")
        if parsed.userinfo:
            raise ValueError("url: give the key as `key`, not in the URL")
        if key is not None and not (key.isascii() and key.isprintable() and " " not in key):
            raise ValueError("key: expected printable ASCII characters without spaces")
        for name, value in (("timeout", timeout), ("deadline", deadline)):
            if value is not None and not value > 0:
                raise ValueError(f"{name}: expected more than 0 s, got {value}")
        if not retry_for >= 0:
            raise ValueError(f"retry_for: expected at least 0 s, got {retry_for}")
        if priority is not None and priority not in PRIORITIES:
            known = ", ".join(PRIORITIES)
            raise ValueError(f"priority: expected one of {known}, got {priority!r}")
        return cls(url, key, timeout, deadline, RetryPolicy(retry_for), priority)

    def changed(
        self,
        timeout: float | None,
        deadline: float | None,
        retry_for: float | None,
        priority: str | None,
    ) -> Connection:
        """Return a connection with other options; None keeps one. Raises ValueError."""
        return Connection.create(
            self.url,
            self.key,
            self.timeout if timeout is None else timeout,
            self.deadline if deadline is None else deadline,
            self.retries.total_s if retry_for is None else retry_for,
            self.priority if priority is None else priority,
        )

    def arguments(self, request: Request) -> dict[str, Any]:
        """Return the arguments of httpx's `build_request`."""
        headers = {"user-agent": f"ganymede-client/{__version__}", **request.headers}
        if self.key is not None:
            headers["authorization"] = f"Bearer {self.key}"
        if self.deadline is not None:
            headers[DEADLINE_HEADER] = str(max(1, round(self.deadline * 1000)))
        if self.priority is not None:
            headers[PRIORITY_HEADER] = self.priority
        arguments: dict[str, Any] = {
            "method": request.method,
            "url": self.url + request.path,
            "params": request.query or None,
            "headers": headers,
            # A request waits for a free connection as long as the others take.
            "timeout": httpx.Timeout(
                self.timeout, connect=min(_CONNECT_S, self.timeout), pool=None
            ),
        }
        if request.files:
            arguments["data"] = dict(request.form)
            arguments["files"] = [
                (each.field, (each.name, each.content, "application/octet-stream"))
                for each in request.files
            ]
        elif request.content is not None:
            arguments["content"] = request.content
        return arguments

    def stream_arguments(self, request: Request) -> dict[str, Any]:
        """Return the arguments for a response that may be silent between two events."""
        timeout = httpx.Timeout(
            max(self.timeout, _SILENT_S), connect=min(_CONNECT_S, self.timeout), pool=None
        )
        return {**self.arguments(request), "timeout": timeout}

    def reply(self, response: httpx.Response, content: bytes) -> Reply:
        """Return a response without httpx's types."""
        headers: Mapping[str, str] = response.headers
        return Reply(self.url, response.status_code, headers, content)

    def error(self, error: Exception) -> GanymedeError:
        """Return the error for one of httpx."""
        reason = str(error) or type(error).__name__
        if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
            return ConnectionFailed(f"cannot connect to {self.url}: {reason}", sent=False)
        if isinstance(error, httpx.TimeoutException):
            return RequestTimedOut(f"{self.url} did not respond within {self.timeout:g} s")
        return ConnectionFailed(f"the connection to {self.url} failed: {reason}", sent=True)
