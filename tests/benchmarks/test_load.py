import asyncio
import contextlib
import threading

import pytest

from benchmarks.load import load, offer


@contextlib.contextmanager
def answering(answer):
    """Serve ``answer(number of the request)`` on a port: a status, or None to close."""
    ready, port, seen = threading.Event(), [], []

    async def client(reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                seen.append((await reader.readexactly(length)).decode())
                status = answer(len(seen))
                if status is None:
                    break
                writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: 4\r\n\r\ndone".encode())
        writer.close()

    async def serve():
        server = await asyncio.start_server(client, "127.0.0.1", 0)
        port.append(server.sockets[0].getsockname()[1])
        ready.set()
        async with server:
            await stop.wait()

    async def main():
        nonlocal stop
        stop = asyncio.Event()
        await serve()

    stop = None
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_until_complete, args=(main(),))
    thread.start()
    try:
        assert ready.wait(10)
        yield f"http://127.0.0.1:{port[0]}/generate", seen
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


def test_open_loop_sends_every_request_once_with_its_own_seed():
    with answering(lambda _: 200) as (url, seen):
        result = offer(url, '{"seed": @SEED@}', 200, 0.5, 7)
    assert sorted(seen) == sorted(f'{{"seed": {seed}}}' for seed in range(7, 107))
    assert (result.requests, result.errors, result.refused, result.late) == (100, 0, 0, 0)
    assert 0 < result.p50_ms <= result.p99_ms
    assert result.rate == pytest.approx(100 / result.seconds)


def test_open_loop_tells_refusals_from_errors():
    # Of twelve requests: 2 refused, 2 late, 2 failed, 2 closed without a response, 4 successful.
    outcomes = [429, 504, 500, None, 200, 200]
    with answering(lambda number: outcomes[number % 6]) as (url, _):
        result = offer(url, "{}", 12, 1, 0)
    assert (result.requests, result.refused, result.late, result.errors) == (12, 2, 2, 4)
    assert result.rate == pytest.approx(4 / result.seconds)


def test_closed_loop_without_wrk_has_one_request_per_connection_at_a_time(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with answering(lambda number: 500 if number == 3 else 200) as (url, seen):
        result = load(url, '{"seed": @SEED@}', 4, 0.5, 7)
    assert result.errors == 1
    assert result.requests == len(seen) > 8
    assert len(set(seen)) == len(seen)
    assert result.refused == result.late == 0
