"""Clients that read slowly, or not at all, or go away."""

import concurrent.futures
import json
import re
import socket
import time
from itertools import pairwise

import httpx
import pytest

from tests.faults.test_load import resident_mib
from tests.support.crowd import Ask, crowd
from tests.support.failing_models import write_failing
from tests.support.servers import serving, worker_of

# Eight million bytes: more than the kernel takes from the server.
LARGE = {"model": "m", "seed": 1, "n": 10_000, "class": "fine", "format": "png", "return": ["z"]}


# Time enough to make that beside other tests.
PATIENT = {"GANYMEDE_MAX_IMAGES": "10000", "GANYMEDE_DEADLINE_S": "300"}


def wait_until(true, seconds=60):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def cut_off(server) -> int:
    return server.logged().count("cut off a client that left")


def asking(server, body):
    """A connection on which `body` has been sent, and whose kernel takes in next to nothing."""
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.socket()
    connection.settimeout(60)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect((host, int(port)))
    text = json.dumps(body)
    connection.sendall(
        f"POST /v1/generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Accept: application/json\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode()
    )
    return connection


@pytest.mark.timeout(600)
def test_readers_that_do_not_read_are_cut_off_and_hold_up_nobody(failing_models, rounds):
    limits = PATIENT | {"GANYMEDE_WRITE_TIMEOUT_S": "4"}
    with serving(failing_models, env=limits) as server:
        worker = worker_of(server)
        memory = []
        for turn in range(1, 3 + min(rounds, 3)):
            deaf = [asking(server, LARGE) for _ in range(3)]
            assert all(each.recv(12) == b"HTTP/1.1 200" for each in deaf)
            answers = crowd(server, [Ask(i, ["fine"]) for i in range(60)])
            assert {answer.status_code for answer in answers} == {200}
            wait_until(lambda turn=turn: cut_off(server) == 3 * turn)
            for each in deaf:
                assert not whole(each)
                each.close()
            memory.append(resident_mib(worker))
        # What lay ready for them is given back: it is not there once more for each round. An
        # allocator may keep some for itself once; what leaks grows in every round.
        assert min(after - before for before, after in pairwise(memory)) < 3 * 8 / 2, memory


def whole(connection) -> bool:
    """Read what is left; tell whether the answer came to its end."""
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


def test_a_reader_that_is_slow_but_keeps_on_gets_it_all(failing_models):
    # Several times what a megabyte takes, since this test is not alone on the machine.
    limits = PATIENT | {"GANYMEDE_WRITE_TIMEOUT_S": "5"}
    with serving(failing_models, env=limits) as server, asking(server, LARGE) as slow:
        size, length, began, head = 0, None, time.monotonic(), b""
        while length is None or size < length:
            data = slow.recv(2**17)
            assert data, f"cut off after {size:,} of {length:,} bytes"
            if length is None:
                head += data
                if b"\r\n\r\n" in head:
                    said, _, rest = head.partition(b"\r\n\r\n")
                    length = int(re.search(rb"content-length: (\d+)", said.lower()).group(1))
                    size = len(rest)
            else:
                size += len(data)
            # Some megabyte a second: longer in all than the time that a megabyte may take.
            ahead = size / 2**20 - (time.monotonic() - began)
            time.sleep(max(0.0, ahead))
        assert time.monotonic() - began > 5


# Of one picture.
PIXELS = 256


def rows_run(server) -> float:
    text = httpx.get(f"{server.url}/metrics").text
    found = re.search(r'^ganymede_batch_rows_sum\{model="m"\} (.*)$', text, re.MULTILINE)
    return float(found.group(1)) if found else 0.0


def queued(server) -> float:
    text = httpx.get(f"{server.url}/metrics").text
    return float(re.search(r"^ganymede_queue_pixels (.*)$", text, re.MULTILINE).group(1))


def test_what_a_client_that_has_gone_waited_for_is_not_done(tmp_path, rounds):
    # Some seconds: many times what the others need to come and go, whatever else runs here.
    write_failing(tmp_path / "m" / "1", slow_turns=6_000_000)
    alone = {"GANYMEDE_WORKERS": "1", "GANYMEDE_THREADS": "1"}
    with serving(tmp_path, env=PATIENT | alone) as server:
        for _ in range(min(rounds, 3)):
            before = rows_run(server)
            slow = {"model": "m", "seed": 1, "class": "slow", "format": "npy"}
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                # Keeps the one worker busy while the others come and go.
                held = pool.submit(httpx.post, f"{server.url}/v1/generate", json=slow, timeout=300)
                wait_until(lambda: queued(server) == PIXELS)
                waiting = [
                    asking(server, {"model": "m", "seed": i, "n": 50, "class": "fine"})
                    for i in range(20)
                ]
                wait_until(lambda: queued(server) == PIXELS * (1 + 20 * 50))
                for each in waiting:
                    each.close()
                # Their places are free at once, though nothing of them was done.
                wait_until(lambda: queued(server) == PIXELS)
                if held.done():
                    pytest.fail("the run that holds the worker was too short")
                assert held.result().status_code == 200
            wait_until(lambda: queued(server) == 0)
            assert rows_run(server) - before == 1
