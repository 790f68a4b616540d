"""More than the service can do, and more connections than anyone should open."""

import hashlib
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from service.runtime.images import encoding
from tests.support.crowd import Ask
from tests.support.failing_models import write_failing
from tests.support.servers import serving, worker_of

# How often the slow class turns here: a tenth of a second, beside which a refusal costs nothing.
TURNS = 240_000


def loaded(server, do, **more):
    said = {"do": do, "port": int(server.url.rpartition(":")[2]), **more}
    done = subprocess.run(
        [sys.executable, Path(__file__).parents[1] / "support" / "load.py"],
        input=json.dumps(said) + "\n",
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "count", [400, pytest.param(10_000, marks=pytest.mark.faults)], ids=["short", "long"]
)
def test_every_one_of_thousands_at_a_time_gets_its_own_picture(failing_models, expected, count):
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < count + 200:
        pytest.skip(f"{count} connections need as many open files, and {most} are allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(files, count + 200), most))
    # A bound that some of the crowd meet.
    bound = {"GANYMEDE_QUEUE_PIXELS": str(256 * count * 3 // 4), "GANYMEDE_DEADLINE_S": "300"}
    # The first connection waits for the last before it asks.
    bound["GANYMEDE_BODY_TIMEOUT_S"] = "300"
    with serving(failing_models, env=bound) as server:
        came = loaded(server, "crowd", count=count)
    assert came["at_once"] == count
    assert set(came["statuses"]) <= {"200", "429"}
    assert came["statuses"]["200"] == count
    for seed, found in came["sums"].items():
        npy = encoding.encode_npy(expected(Ask(int(seed), ["fine"])))
        assert found == hashlib.sha256(npy).hexdigest(), seed


def capacity_of(server, seconds):
    """Pictures a second for clients that wait for each of theirs, too few to be refused."""
    return loaded(server, "closed", seconds=seconds, clients=4, class_="slow")["per_second"]


@pytest.mark.timeout(900)
def test_at_twice_its_capacity_it_does_what_it_can_and_refuses_the_rest_at_once(tmp_path, rounds):
    write_failing(tmp_path / "m" / "1", slow_turns=TURNS)
    deadline_ms = 2000
    # The short form runs beside other tests, which take what they like of the machine.
    seconds, share, at_once_s = (4, 0.6, 0.5) if rounds == 1 else (20, 0.9, 0.05)
    shortfalls = []
    # A run of this graph takes as long for one row as for many, so capacity would be no number.
    one_row = {"GANYMEDE_MAX_ROWS": "1"}
    # What else the machine does can only make it worse.
    for _ in range(3):
        with serving(tmp_path, env=one_row) as server:
            capacity = capacity_of(server, seconds)
        # Half a second of work may wait: what is accepted has time enough.
        bound = {"GANYMEDE_QUEUE_PIXELS": str(int(256 * max(capacity / 2, 4)))}
        with serving(tmp_path, env=one_row | bound) as server:
            came = loaded(
                server,
                "open",
                seconds=seconds,
                per_second=2 * capacity,
                class_="slow",
                deadline_ms=deadline_ms,
            )
            # The machine may have become slower meanwhile.
            capacity = min(capacity, capacity_of(server, seconds))
        statuses = [status for status, *_ in came["outcomes"]]
        assert set(statuses) <= {200, 429, 504}
        refused = [took for status, took, told in came["outcomes"] if status == 429]
        assert all(told for status, _, told in came["outcomes"] if status == 429)
        if len(refused) <= len(statuses) / 5:
            # The machine became faster after its capacity was taken: this was no overload.
            shortfalls.append(["too few were refused"])
            continue
        wrong = []
        if 504 in statuses:
            wrong.append(f"{statuses.count(504)} accepted requests were late")
        if came["goodput"] < share * capacity:
            wrong.append(f"goodput {came['goodput']:.1f} of {capacity:.1f} a second")
        # What a busy machine adds to any answer, an answer without work shows.
        if statistics.median(refused) > at_once_s + statistics.median(came["live"]):
            wrong.append(f"429 took {statistics.median(refused):.3f} s")
        if not wrong:
            return
        shortfalls.append(wrong)
    pytest.fail(f"in none of three rounds: {shortfalls}")


def resident_mib(process: psutil.Process) -> float:
    return process.memory_info().rss / 2**20


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "count", [2000, pytest.param(50_000, marks=pytest.mark.faults)], ids=["short", "long"]
)
def test_memory_and_open_files_stay_what_they_were(failing_models, count):
    bodies = [
        {"model": "m", "n": 4, "seed": 1, "class": "fine"},
        {"model": "m", "n": 1, "seed": 2, "class": "fine", "format": "jpeg"},
        {"model": "m", "n": 3, "seed": 3, "class": "fine", "format": "npy"},
        {"model": "m", "n": 2, "class": "raises"},
        {"model": "m", "n": 2, "class": "nobody"},
        {"model": "nobody"},
    ]

    def mixed(server, client, number):
        body = bodies[number % len(bodies)]
        if number % 50 == 7:
            # A client that asks and goes.
            with httpx.Client(base_url=server.url, timeout=0.001) as gone:
                try:
                    gone.post("/v1/generate", json=body | {"n": 64})
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
            seen = []
            for number in range(count // 2, count):
                mixed(server, client, number)
                if number % (count // 10) == 0:
                    seen.append(resident_mib(worker))
            deadline = time.monotonic() + 10
            while worker.num_fds() > files + 3 and time.monotonic() < deadline:
                time.sleep(0.1)
            assert worker.num_fds() <= files + 3
        # What the allocator keeps comes and goes; a leak only comes.
        assert min(seen[-2:]) - before < 24, (before, seen)
