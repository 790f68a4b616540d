"""Clients that read slowly or not at all, or disconnect."""

import concurrent.futures
import json
import re
import time
from itertools import pairwise

import httpx
import pytest

from tests.support.crowd import ClassRequest, queued_pixels, send_concurrently
from tests.support.failing_models import write_failing
from tests.support.servers import resident_mib, serving, wait_until, worker_of

pytestmark = pytest.mark.slow

# A response of eight million bytes: more than the kernel buffers.
LARGE = {"model": "m", "seed": 1, "n": 10_000, "class": "fine", "format": "png", "return": ["z"]}

# Enough time to generate it while other tests run.
LONG_DEADLINE = {"GANYMEDE_MAX_IMAGES": "10000", "GANYMEDE_DEADLINE_S": "300"}


def disconnected_clients(server) -> int:
    return server.logged().count("closed a connection whose client left")


def send_request(server, body):
    """Send `body` on a connection with a tiny receive buffer, and return the connection."""
    connection = server.connect(receive_buffer=4096)
    text = json.dumps(body)
    connection.sendall(
        f"POST /v1/generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Accept: application/json\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode()
    )
    return connection


@pytest.mark.timeout(600)
def test_clients_that_do_not_read_are_disconnected(failing_models, rounds):
    limits = LONG_DEADLINE | {"GANYMEDE_WRITE_TIMEOUT_S": "4"}
    with serving(failing_models, env=limits) as server:
        worker = worker_of(server)
        memory = []

        def leave_unread():
            """Let three clients leave their responses unread while others are served."""
            stalled = [send_request(server, LARGE) for _ in range(3)]
            assert all(each.recv(12) == b"HTTP/1.1 200" for each in stalled)
            responses = send_concurrently(server, [ClassRequest(i, ["fine"]) for i in range(60)])
            assert {response.status_code for response in responses} == {200}
            closed = 3 * (len(memory) + 1)
            wait_until(lambda: disconnected_clients(server) == closed)
            for each in stalled:
                assert not is_complete(each)
                each.close()
            memory.append(resident_mib(worker))

        for _ in range(1 + rounds):
            leave_unread()
        # The unread responses are freed. A leak would grow by all of them in every round; what the
        # allocator keeps ends after some rounds.
        while min((b - a for a, b in pairwise(memory)), default=3 * 8) > 3 * 8 / 2:
            assert len(memory) < 10 + rounds, memory
            leave_unread()


def is_complete(connection) -> bool:
    """Read the rest of a response; return True if it arrived completely."""
    size, head = 0, b""
    try:
        while data := connection.recv(2**20):
            if len(head) < 4096:
                head += data
            size += len(data)
    except ConnectionResetError:
        return False
    length = re.search(rb"content-length: (\d+)", head.lower())
    return length is not None and size >= int(length.group(1))


def test_slow_reader_gets_whole_response(failing_models):
    # A generous time per megabyte, because other tests run at the same time.
    limits = LONG_DEADLINE | {"GANYMEDE_WRITE_TIMEOUT_S": "5"}
    with serving(failing_models, env=limits) as server, send_request(server, LARGE) as slow:
        size, length, started_at, head = 0, None, time.monotonic(), b""
        while length is None or size < length:
            data = slow.recv(2**17)
            assert data, f"closed after {size:,} of {length:,} bytes"
            if length is None:
                head += data
                if b"\r\n\r\n" in head:
                    header, _, rest = head.partition(b"\r\n\r\n")
                    length = int(re.search(rb"content-length: (\d+)", header.lower()).group(1))
                    size = len(rest)
            else:
                size += len(data)
            # About a megabyte per second: in total longer than the timeout of one megabyte.
            ahead = size / 2**20 - (time.monotonic() - started_at)
            time.sleep(max(0.0, ahead))
        assert time.monotonic() - started_at > 5


# Pixels of one image.
PIXELS = 256


def rows_run(server) -> float:
    text = httpx.get(f"{server.url}/metrics").text
    match = re.search(r'^ganymede_batch_rows_sum\{model="m"\} (.*)$', text, re.MULTILINE)
    return float(match.group(1)) if match else 0.0


def test_work_of_disconnected_clients_is_cancelled(tmp_path, rounds):
    # Some seconds: many times what the other clients need to connect and disconnect.
    write_failing(tmp_path / "m" / "1", slow_iterations=6_000_000)
    alone = {"GANYMEDE_CONCURRENT_BATCHES": "1", "GANYMEDE_THREADS": "1"}
    with serving(tmp_path, env=LONG_DEADLINE | alone) as server:
        for _ in range(min(rounds, 3)):
            before = rows_run(server)
            slow = {"model": "m", "seed": 1, "class": "slow", "format": "npy"}
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                # Keeps the only worker busy meanwhile.
                first = pool.submit(httpx.post, f"{server.url}/v1/generate", json=slow, timeout=300)
                wait_until(lambda: queued_pixels(server) == PIXELS)
                waiting = [
                    send_request(server, {"model": "m", "seed": i, "n": 50, "class": "fine"})
                    for i in range(20)
                ]
                wait_until(lambda: queued_pixels(server) == PIXELS * (1 + 20 * 50))
                for each in waiting:
                    each.close()
                # Their places in the queue are free at once.
                wait_until(lambda: queued_pixels(server) == PIXELS)
                if first.done():
                    pytest.fail("the run that occupies the worker was too short")
                assert first.result().status_code == 200
            wait_until(lambda: queued_pixels(server) == 0)
            assert rows_run(server) - before == 1
