"""A load generator of one process, to be run beside the test: it holds thousands of connections.

Reads a JSON line of what to do from standard input, and writes one of what came of it. Each
request is for one picture, named by its seed, as NPY.

    crowd: `count` requests at a time, each on a connection of its own; one that is refused for the
           length of the queue asks again after what Retry-After says.
    closed: `clients` connections, each with its next request when it has its answer.
    open: `per_second` requests a second whatever becomes of them, and /livez beside them.
"""

import asyncio
import contextlib
import hashlib
import json
import random
import sys
import time

# The service closes a connection that nobody has used for five seconds, perhaps just when a request
# sets out on it. One that has rested for so long is not used again.
RESTED_S = 2.0
HEADERS = "Host: x\r\nContent-Type: application/json\r\n"


class Connection:
    def __init__(self, port: int) -> None:
        self._port = port
        self._streams = None
        self._answered: float | None = None

    async def ask(self, seed: int, class_: str, deadline_ms: int | None = None):
        body = json.dumps({"model": "m", "seed": seed, "class": class_, "format": "npy"})
        more = f"X-Deadline-Ms: {deadline_ms}\r\n" if deadline_ms else ""
        head = f"POST /v1/generate HTTP/1.1\r\n{HEADERS}{more}Content-Length: {len(body)}\r\n\r\n"
        return await self._exchange(head + body)

    async def live(self):
        return await self._exchange(f"GET /livez HTTP/1.1\r\n{HEADERS}\r\n")

    async def _exchange(self, request: str):
        """Return status, headers, body and seconds."""
        if self._answered is not None and time.perf_counter() - self._answered > RESTED_S:
            self.close()
        if self._streams is None:
            await self.open()
        reader, writer = self._streams
        began = time.perf_counter()
        writer.write(request.encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        seconds = time.perf_counter() - began
        status, *lines = head.strip().split("\r\n")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self._answered = time.perf_counter()
        return int(status.split()[1]), headers, body, seconds

    async def open(self) -> None:
        self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        self._answered = None

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def crowd(port: int, count: int) -> dict:
    sums: dict[int, str] = {}
    statuses: dict[int, int] = {}
    open_now = most = 0
    gate = asyncio.Event()

    async def one(seed: int) -> None:
        nonlocal open_now, most
        connection = Connection(port)
        for attempt in range(20):
            with contextlib.suppress(OSError):
                await connection.open()
                break
            await asyncio.sleep(0.1 * 2**attempt * random.random())
        open_now += 1
        most = max(most, open_now)
        if open_now == count:
            gate.set()
        await gate.wait()
        while True:
            status, headers, body, _ = await connection.ask(seed, "fine")
            statuses[status] = statuses.get(status, 0) + 1
            if status != 429:
                break
            await asyncio.sleep(int(headers["retry-after"]) * (0.5 + random.random()))
        sums[seed] = hashlib.sha256(body).hexdigest() if status == 200 else str(status)
        connection.close()

    await asyncio.gather(*(one(seed) for seed in range(count)))
    return {"sums": sums, "statuses": statuses, "at_once": most}


async def closed(port: int, seconds: float, clients: int, class_: str) -> dict:
    ended = time.perf_counter() + seconds
    done = 0

    async def one(number: int) -> None:
        nonlocal done
        connection = Connection(port)
        seed = number
        while time.perf_counter() < ended:
            status, *_ = await connection.ask(seed, class_)
            done += status == 200
            seed += clients
        connection.close()

    began = time.perf_counter()
    await asyncio.gather(*(one(number) for number in range(clients)))
    return {"per_second": done / (time.perf_counter() - began)}


async def open_loop(
    port: int, seconds: float, per_second: float, class_: str, deadline_ms: int
) -> dict:
    outcomes: list[tuple[int, float, bool]] = []
    live: list[float] = []
    idle: list[Connection] = []
    last_good = 0.0

    async def one(seed: int) -> None:
        nonlocal last_good
        connection = idle.pop() if idle else Connection(port)
        status, headers, _, took = await connection.ask(seed, class_, deadline_ms)
        outcomes.append((status, took, "retry-after" in headers))
        if status == 200:
            last_good = time.perf_counter()
        idle.append(connection)

    async def probe() -> None:
        connection = Connection(port)
        while True:
            live.append((await connection.live())[3])
            await asyncio.sleep(0.05)

    probing = asyncio.create_task(probe())
    began = time.perf_counter()
    tasks = []
    for number in range(int(seconds * per_second)):
        await asyncio.sleep(max(0.0, began + number / per_second - time.perf_counter()))
        tasks.append(asyncio.create_task(one(number)))
    await asyncio.gather(*tasks)
    probing.cancel()
    good = sum(status == 200 for status, *_ in outcomes)
    return {
        "offered": len(outcomes),
        "goodput": good / (last_good - began) if good else 0.0,
        "outcomes": outcomes,
        "live": live,
    }


if __name__ == "__main__":
    said = json.loads(sys.stdin.readline())
    work = {"crowd": crowd, "closed": closed, "open": open_loop}[said.pop("do")]
    print(json.dumps(asyncio.run(work(**said))))  # noqa: T201 - this is its answer
