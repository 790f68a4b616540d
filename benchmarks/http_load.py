"""Send requests and print the result as JSON: in an open loop, or in a closed one without wrk.

    python -m benchmarks.http_load open URL BODY PER_SECOND SECONDS FIRST_SEED
    python -m benchmarks.http_load closed URL BODY CONNECTIONS SECONDS FIRST_SEED

`benchmarks.load` starts it as a process of its own. In an open loop each request has its own
connection while it waits; idle connections are reused. ``@SEED@`` in the body becomes an increasing
number.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import numpy as np
import uvloop

# Longer than any deadline of a server.
_WAIT_S = 90.0
_REFUSED = (429, 503)
_LATE = 504


class Connection(asyncio.Protocol):
    """A connection with at most one request at a time."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None
        self.due: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether the server has not closed the connection."""
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the transport."""
        self._transport = transport  # type: ignore[assignment]

    def send(self, request: bytes, due: float) -> None:
        """Send a request that was due at `due`."""
        self.due = due
        self._transport.write(request)  # type: ignore[union-attr]

    def data_received(self, data: bytes) -> None:
        """Collect the response; report it when it is complete."""
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._received[:end].lower()
        at = head.find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(self._received) < end + 4 + length:
            return
        status, due, self.due = int(head.split(None, 2)[1]), self.due, None
        self._received.clear()
        self._run.responded(self, status, due)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio names it
        """A request without a response has failed."""
        if self.due is not None:
            self._run.responded(self, 0, self.due)
            self.due = None


class Run:
    """The requests of one run, and their outcomes by status; 0 stands for a failed connection."""

    def __init__(self, url: str, body: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname, parts.port
        self._body = body
        self._head = (
            f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        )
        self._idle: list[Connection] = []
        self._tasks: set[asyncio.Task[None]] = set()
        # Called after each outcome.
        self.on_outcome: Callable[[], None] = lambda: None
        self.outcomes: list[tuple[int, float]] = []

    def responded(self, connection: Connection, status: int, due: float | None) -> None:
        """Record an outcome; the connection can be used again."""
        self.outcomes.append((status, time.perf_counter() - (due or 0.0)))
        if status and connection.is_open:
            self._idle.append(connection)
        self.on_outcome()

    def send(self, seed: int, due: float) -> None:
        """Send one request on an idle connection, or on a new one."""
        body = self._body.replace("@SEED@", str(seed))
        request = f"{self._head}{len(body)}\r\n\r\n{body}".encode()
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                connection.send(request, due)
                return
        task = asyncio.ensure_future(self._send_on_new(request, due))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send_on_new(self, request: bytes, due: float) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(
                lambda: Connection(self), self._host, self._port
            )
        except OSError:
            self.outcomes.append((0, time.perf_counter() - due))
            self.on_outcome()
            return
        connection.send(request, due)


async def offer(run: Run, per_second: float, seconds: float, first_seed: int) -> int:
    """Send requests at a rate; return their number."""
    started = time.perf_counter()
    count = max(round(per_second * seconds), 1)
    sent = 0
    while sent < count:
        now = time.perf_counter() - started
        while sent < count and sent / per_second <= now:
            run.send(first_seed + sent, started + sent / per_second)
            sent += 1
        await asyncio.sleep(max(sent / per_second - (time.perf_counter() - started), 0))
    return count


async def repeat(run: Run, connections: float, seconds: float, first_seed: int) -> int:
    """Send a request after each outcome, from a number of connections; return their number."""
    end = time.perf_counter() + seconds
    seeds = itertools.count(first_seed)
    count = 0

    def send() -> None:
        nonlocal count
        now = time.perf_counter()
        if now < end:
            count += 1
            run.send(next(seeds), now)

    run.on_outcome = send
    for _ in range(int(connections)):
        send()
    await asyncio.sleep(seconds)
    # The timer can end a moment early: nothing may be sent after the count is returned.
    run.on_outcome = lambda: None
    return count


async def result(
    kind: str, url: str, body: str, number: float, seconds: float, first_seed: int
) -> dict[str, float]:
    """Return the fields of `benchmarks.load.Load`."""
    run = Run(url, body)
    started = time.perf_counter()
    count = await {"open": offer, "closed": repeat}[kind](run, number, seconds, first_seed)
    end = time.perf_counter() + _WAIT_S
    while len(run.outcomes) < count and time.perf_counter() < end:
        await asyncio.sleep(0.01)
    took = time.perf_counter() - started
    statuses = [status for status, _ in run.outcomes]
    good = [1000 * latency for status, latency in run.outcomes if 200 <= status < 400]
    refused, late = sum(status in _REFUSED for status in statuses), statuses.count(_LATE)
    return {
        "requests": count,
        "seconds": took,
        # Requests without any outcome at the end of the wait are errors as well.
        "errors": count - len(good) - refused - late,
        "p50_ms": float(np.percentile(good, 50)) if good else 0.0,
        "p99_ms": float(np.percentile(good, 99)) if good else 0.0,
        "refused": refused,
        "late": late,
    }


if __name__ == "__main__":
    kind, url, body, *numbers = sys.argv[1:]
    print(
        json.dumps(uvloop.run(result(kind, url, body, *map(float, numbers[:2]), int(numbers[2]))))
    )
