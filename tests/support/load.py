"""A load generator that runs in its own process and holds thousands of connections.

Reads a command as a JSON line from standard input, and writes the result as another. Each request
is for one image, in NPY format.

    crowd: `count` concurrent requests, each on its own connection; a request that gets 429 is
           repeated after its Retry-After.
    open: `per_second` requests per second, without waiting for responses.
"""

import asyncio
import contextlib
import hashlib
import json
import random
import sys
import time

# The service closes connections that are idle for five seconds, perhaps just as a request is sent,
# so connections that have been idle this long are not reused.
MAX_IDLE_S = 2.0
HEADERS = "Host: x\r\nContent-Type: application/json\r\n"


class Connection:
    def __init__(self, port: int) -> None:
        self._port = port
        self._streams = None
        self._last_response_at: float | None = None

    async def ask(self, seed: int, class_: str, deadline_ms: int | None = None):
        body = json.dumps({"model": "m", "seed": seed, "class": class_, "format": "npy"})
        more = f"X-Deadline-Ms: {deadline_ms}\r\n" if deadline_ms else ""
        head = f"POST /v1/generate HTTP/1.1\r\n{HEADERS}{more}Content-Length: {len(body)}\r\n\r\n"
        return await self._exchange(head + body)

    async def _exchange(self, request: str):
        """Return status, headers and body."""
        if (
            self._last_response_at is not None
            and time.perf_counter() - self._last_response_at > MAX_IDLE_S
        ):
            self.close()
        if self._streams is None:
            await self.open()
        reader, writer = self._streams
        writer.write(request.encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status, *lines = head.strip().split("\r\n")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self._last_response_at = time.perf_counter()
        return int(status.split()[1]), headers, body

    async def open(self) -> None:
        self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        self._last_response_at = None

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def crowd(port: int, count: int) -> dict:
    sums: dict[int, str] = {}
    statuses: dict[int, int] = {}
    open_now = max_open = 0
    gate = asyncio.Event()

    async def one(seed: int) -> None:
        nonlocal open_now, max_open
        connection = Connection(port)
        for attempt in range(20):
            with contextlib.suppress(OSError):
                await connection.open()
                break
            await asyncio.sleep(0.1 * 2**attempt * random.random())
        open_now += 1
        max_open = max(max_open, open_now)
        if open_now == count:
            gate.set()
        await gate.wait()
        while True:
            status, headers, body = await connection.ask(seed, "fine")
            statuses[status] = statuses.get(status, 0) + 1
            if status != 429:
                break
            await asyncio.sleep(int(headers["retry-after"]) * (0.5 + random.random()))
        sums[seed] = hashlib.sha256(body).hexdigest() if status == 200 else str(status)
        connection.close()

    await asyncio.gather(*(one(seed) for seed in range(count)))
    return {"sums": sums, "statuses": statuses, "at_once": max_open}


async def open_loop(
    port: int, seconds: float, per_second: float, class_: str, deadline_ms: int
) -> dict:
    outcomes: list[tuple[int, bool]] = []
    idle: list[Connection] = []

    async def send(seed: int) -> None:
        connection = idle.pop() if idle else Connection(port)
        status, headers, _ = await connection.ask(seed, class_, deadline_ms)
        outcomes.append((status, "retry-after" in headers))
        idle.append(connection)

    started = time.perf_counter()
    tasks = []
    for number in range(int(seconds * per_second)):
        await asyncio.sleep(max(0.0, started + number / per_second - time.perf_counter()))
        tasks.append(asyncio.create_task(send(number)))
    await asyncio.gather(*tasks)
    return {"outcomes": outcomes}


if __name__ == "__main__":
    command = json.loads(sys.stdin.readline())
    function = {"crowd": crowd, "open": open_loop}[command.pop("do")]
    print(json.dumps(asyncio.run(function(**command))))  # noqa: T201 - the result
