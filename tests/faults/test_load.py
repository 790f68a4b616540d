"""Overload, many concurrent connections, and leaks."""

import hashlib
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from service.runtime.images import encoding
from tests.support.crowd import ClassRequest
from tests.support.failing_models import write_failing
from tests.support.servers import resident_mib, serving, worker_of

pytestmark = pytest.mark.slow

# Iterations of the slow class: about a tenth of a second per image.
ITERATIONS = 240_000


def run_load(server, do, **options):
    """Run tests/support/load.py against the server, and return its result."""
    command = {"do": do, "port": int(server.url.rpartition(":")[2]), **options}
    process = subprocess.run(
        [sys.executable, Path(__file__).parents[1] / "support" / "load.py"],
        input=json.dumps(command) + "\n",
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "count", [400, pytest.param(10_000, marks=pytest.mark.faults)], ids=["short", "long"]
)
def test_every_concurrent_request_gets_its_own_image(failing_models, expected, count):
    soft_limit, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard_limit < count + 200:
        pytest.skip(f"{count} connections need as many open files, and {hard_limit} are allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft_limit, count + 200), hard_limit))
    # A limit that some of the requests exceed.
    limits = {"GANYMEDE_QUEUE_PIXELS": str(256 * count * 3 // 4), "GANYMEDE_DEADLINE_S": "300"}
    # The first connection sends its request only once the last one is open.
    limits["GANYMEDE_BODY_TIMEOUT_S"] = "300"
    with serving(failing_models, env=limits) as server:
        result = run_load(server, "crowd", count=count)
    assert result["at_once"] == count
    assert set(result["statuses"]) <= {"200", "429"}
    assert result["statuses"]["200"] == count
    for seed, digest in result["sums"].items():
        npy = encoding.encode_npy(expected(ClassRequest(int(seed), ["fine"])))
        assert digest == hashlib.sha256(npy).hexdigest(), seed


@pytest.mark.timeout(900)
def test_overload_is_refused_and_accepted_work_is_in_time(tmp_path, rounds):
    write_failing(tmp_path / "m" / "1", slow_iterations=ITERATIONS)
    # At most some ten images per second.
    one_at_a_time = {
        "GANYMEDE_CONCURRENT_BATCHES": "1",
        "GANYMEDE_THREADS": "1",
        "GANYMEDE_MAX_ROWS": "1",
        "GANYMEDE_QUEUE_PIXELS": str(4 * 16 * 16),
    }
    with serving(tmp_path, env=one_at_a_time) as server:
        load = {"per_second": 100, "class_": "slow", "deadline_ms": 300_000}
        result = run_load(server, "open", seconds=3 * min(rounds, 3), **load)
    statuses = [status for status, _ in result["outcomes"]]
    # A short queue, so that no accepted request misses the deadline.
    assert set(statuses) == {200, 429}
    assert all(retry_after for status, retry_after in result["outcomes"] if status == 429)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "count", [2000, pytest.param(50_000, marks=pytest.mark.faults)], ids=["short", "long"]
)
def test_memory_and_open_files_do_not_grow(failing_models, count):
    bodies = [
        {"model": "m", "n": 4, "seed": 1, "class": "fine"},
        {"model": "m", "n": 1, "seed": 2, "class": "fine", "format": "jpeg"},
        {"model": "m", "n": 3, "seed": 3, "class": "fine", "format": "npy"},
        {"model": "m", "n": 2, "class": "raises"},
        {"model": "m", "n": 2, "class": "unknown"},
        {"model": "unknown"},
    ]

    def mixed(server, client, number):
        body = bodies[number % len(bodies)]
        if number % 50 == 7:
            # A client that disconnects at once.
            with httpx.Client(base_url=server.url, timeout=0.001) as other:
                try:
                    other.post("/v1/generate", json=body | {"n": 64})
                except httpx.TransportError:
                    return
        else:
            client.post("/v1/generate", json=body | {"seed": number})

    with serving(failing_models, env={"GANYMEDE_LOG_REQUESTS": "0"}) as server:
        worker = worker_of(server)
        with server.client() as client:
            for number in range(count // 2):
                mixed(server, client, number)
            time.sleep(1)
            files, before = worker.num_fds(), resident_mib(worker)
            memory = []
            for number in range(count // 2, count):
                mixed(server, client, number)
                if number % (count // 10) == 0:
                    memory.append(resident_mib(worker))
            deadline = time.monotonic() + 10
            while worker.num_fds() > files + 3 and time.monotonic() < deadline:
                time.sleep(0.1)
            assert worker.num_fds() <= files + 3
        # What the allocator keeps varies; a leak only grows.
        assert min(memory[-2:]) - before < 24, (before, memory)
