"""Streams of texts whose client reads slowly, or disconnects: against the real service."""

import contextlib
import socket
import time

import httpx
import pytest

from tests.support.drawn_models import CHARACTERS
from tests.support.output_models import write_text
from tests.support.servers import serving, wait_until

# A text of 40 MB: more than the buffers of a connection hold, which are a few MiB.
TOKENS, CHARACTERS_PER_TOKEN = 10_000, 4000
DEADLINE_S = 2.0


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    models = tmp_path_factory.mktemp("models")
    words = ["", "", *(each * CHARACTERS_PER_TOKEN for each in CHARACTERS)]
    write_text(models / "endless" / "1", TOKENS, ends=False, vocabulary=words)
    # Longer than a busy machine takes to fill the buffers.
    env = {"GANYMEDE_DEADLINE_S": str(DEADLINE_S), "GANYMEDE_WRITE_TIMEOUT_S": "300"}
    # One process starts faster than several.
    env["GANYMEDE_PROCESSES"] = "1"
    with serving(models, env=env) as running:
        yield running


@pytest.fixture(autouse=True)
def idle(server):
    """Begin when the work for the test before has ended."""
    wait_until_stalled(server)


def generated(server) -> float:
    """Return how many tokens the service has generated so far."""
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    name = "ganymede_batch_rows_sum{"
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def wait_until_stalled(server) -> float:
    """Wait until no tokens are generated for longer than the deadline; return how many were."""
    deadline = time.monotonic() + 60
    while True:
        before = generated(server)
        time.sleep(1.5 * DEADLINE_S)
        if (after := generated(server)) == before:
            return after
        assert time.monotonic() < deadline


@contextlib.contextmanager
def stream(server):
    """Start a stream with a small buffer, and yield the response, of which nothing is read."""
    transport = httpx.HTTPTransport(socket_options=[(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**18)])
    body = {"model": "endless", "seed": 1, "format": "events"}
    with (
        httpx.Client(transport=transport, timeout=60) as client,
        client.stream("POST", f"{server.url}/v1/text", json=body) as response,
    ):
        assert response.status_code == 200
        yield response


def test_generation_waits_for_the_client_and_then_continues(server):
    start = generated(server)
    with stream(server) as response:
        stalled = wait_until_stalled(server)
        assert 0 < stalled - start < TOKENS / 2
        # An error would end the stream before.
        more, received = (stalled - start + 1000) * CHARACTERS_PER_TOKEN, 0
        parts = response.iter_raw()
        while received < more:
            received += len(next(parts))
        assert generated(server) > stalled


def test_disconnect_ends_the_generation(server):
    start = generated(server)
    with stream(server):
        wait_until(lambda: generated(server) > start)
    ended = wait_until_stalled(server)
    assert ended - start < TOKENS / 2
    # The model is free for others.
    body = {"model": "endless", "seed": 1, "max_length": 1}
    assert httpx.post(f"{server.url}/v1/text", json=body).status_code == 200
