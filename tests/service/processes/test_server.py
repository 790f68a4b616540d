"""What a client sees of a server with two processes."""

import concurrent.futures
import contextlib
import itertools
import shutil
import signal
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.api_keys import add_key, revoke_key
from tests.support.failing_models import SIZE, write_failing
from tests.support.servers import client_of_each_worker, serving, wait_until, workers_of

PIXELS = SIZE * SIZE
# Images that fit into the queue, and that the key `limited` may request per minute.
QUEUE, PER_MINUTE = 8, 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with `models`, `keys` and `jobs`."""
    folder = tmp_path_factory.mktemp("processes")
    write_failing(folder / "models" / "m" / "1", seed=1, slow_iterations=600_000)
    return folder


@pytest.fixture(scope="module")
def keys(folder):
    """The API keys by name."""
    return {
        "admin": add_key(folder / "keys", "admin", admin=True),
        "limited": add_key(folder / "keys", "limited", pixels_per_minute=PER_MINUTE * PIXELS),
        "revoked": add_key(folder / "keys", "revoked"),
    }


@pytest.fixture(scope="module")
def server(folder, keys):
    flags = ["--processes", "2", "--queue-pixels", str(QUEUE * PIXELS), "--max-jobs-per-key", "1"]
    flags += ["--keys", str(folder / "keys"), "--jobs", str(folder / "jobs"), "--threads", "1"]
    with serving(folder / "models", *flags) as server:
        wait_until(lambda: server.logged().count("ready: ") == 2)
        yield server


@pytest.fixture
def clients(server, keys):
    """A client of each process, as the administrator."""
    headers = {"authorization": f"Bearer {keys['admin']}"}
    with client_of_each_worker(server, headers=headers) as clients:
        yield clients


def generate(client, n=1, kind="fine", headers=None):
    body = {"model": "m", "n": n, "class": kind}
    return client.post("/v1/generate", json=body, headers=headers)


def scrape(client) -> dict[tuple[str, tuple], float]:
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def value(client, name: str, **labels: str) -> float:
    return scrape(client).get((name, tuple(sorted(labels.items()))), 0.0)


def requests_counted(client) -> float:
    return value(
        client, "ganymede_requests_total", route="/v1/generate", method="POST", status="200"
    )


def test_rate_limit_is_exact_over_all_processes(clients, keys):
    headers = {"authorization": f"Bearer {keys['limited']}"}
    started = time.monotonic()
    accepted = 0
    for client in itertools.cycle(clients):
        response = generate(client, headers=headers)
        if response.status_code == 429:
            break
        assert response.status_code == 200, response.text
        accepted += 1
        refilled = (time.monotonic() - started) * PER_MINUTE / 60
        left = int(response.headers["ratelimit-remaining"]) / PIXELS
        assert PER_MINUTE - accepted <= left <= PER_MINUTE - accepted + refilled
    assert accepted <= PER_MINUTE + (time.monotonic() - started) * PER_MINUTE / 60
    assert accepted >= PER_MINUTE
    assert response.json()["type"] == "urn:ganymede:problem:rate-limited"
    assert 1 <= int(response.headers["retry-after"]) <= 3


def test_revoked_key_is_refused_by_all_processes_at_once(clients, keys, folder):
    headers = {"authorization": f"Bearer {keys['revoked']}"}
    assert [generate(client, headers=headers).status_code for client in clients] == [200, 200]
    revoke_key(folder / "keys", "revoked")
    assert [generate(client, headers=headers).status_code for client in clients] == [401, 401]


def test_queue_limit_holds_over_all_processes(clients):
    first, second = clients
    with concurrent.futures.ThreadPoolExecutor() as pool:
        running = pool.submit(generate, first, QUEUE - 1, "slow")
        wait_until(lambda: value(second, "ganymede_queue_pixels") == (QUEUE - 1) * PIXELS)
        refused = generate(second, 2)
        accepted = generate(second, 1)
        assert not running.done()
        assert refused.status_code == 429
        assert refused.json()["type"] == "urn:ganymede:problem:queue-full"
        assert int(refused.headers["retry-after"]) >= 1
        assert accepted.status_code == 200
        assert running.result().status_code == 200
    wait_until(lambda: value(first, "ganymede_queue_pixels") == 0)
    # A request of the allowed size fits if the server is idle.
    assert generate(second, QUEUE).status_code == 200


def test_every_process_exports_the_sums_over_all(clients):
    before = requests_counted(clients[0])
    for client, count in zip(clients, (2, 3), strict=True):
        for _ in range(count):
            assert generate(client).status_code == 200
    for client in clients:
        wait_until(lambda client=client: requests_counted(client) == before + 5)
    first, second = (set(scrape(client)) for client in clients)
    assert first == second
    assert value(clients[0], "process_open_fds") > 20
    for state in ("alive", "ready"):
        assert value(clients[0], "ganymede_processes", state=state) == 2
    states = [key for key in first if key[0] == "ganymede_model_state" and ("model", "m") in key[1]]
    assert len(states) == 2


def test_counters_do_not_decrease_when_a_process_dies(server, clients, keys):
    for client in clients:
        assert generate(client).status_code == 200
    before = scrape(clients[1])
    workers = workers_of(server)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        dying = pool.submit(generate, clients[0], QUEUE, "slow")
        wait_until(lambda: value(clients[1], "ganymede_queue_pixels") == QUEUE * PIXELS)
        workers[0].send_signal(signal.SIGKILL)
        assert dying.exception() is not None
    # The pixels of the process that died do not count, once its last file is closed.
    wait_until(lambda: value(clients[1], "ganymede_queue_pixels") == 0)
    assert generate(clients[1], QUEUE).status_code == 200
    assert requests_counted(clients[1]) > 0
    wait_until(lambda: len({w.pid for w in workers_of(server)} - {workers[0].pid}) == 2)
    wait_until(lambda: server.logged().count("ready: ") == 3)
    headers = {"authorization": f"Bearer {keys['admin']}"}
    with client_of_each_worker(server, headers=headers) as replaced:
        for client in replaced:
            assert generate(client).status_code == 200
        after = scrape(replaced[0])
    for key, earlier in before.items():
        if key[0].endswith(("_total", "_count", "_sum", "_bucket")):
            assert after[key] >= earlier, key
    assert after["ganymede_queue_pixels", ()] == 0


def change_model(folder, seed: int) -> None:
    new = write_failing(folder / f"new-{seed}" / "m" / "1", seed=seed)
    (folder / "models" / "m" / "1").rename(folder / f"old-{seed}")
    new.rename(folder / "models" / "m" / "1")
    shutil.rmtree(folder / f"old-{seed}")


def test_no_client_gets_the_previous_model_after_the_new_one(server, clients, folder, keys):
    stop = False

    def hammer(client):
        """Return the start, the end and the model's digest of each request."""
        seen = []
        while not stop:
            started = time.monotonic()
            response = generate(client)
            if response.status_code != 429:
                seen.append((started, time.monotonic(), response.headers["x-ganymede-digest"]))
        return seen

    headers = {"authorization": f"Bearer {keys['admin']}"}
    with contextlib.ExitStack() as stack:
        pairs = [
            stack.enter_context(client_of_each_worker(server, headers=headers)) for _ in range(2)
        ]
        pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor())
        running = [pool.submit(hammer, client) for pair in pairs for client in pair]
        digests = [generate(clients[0]).headers["x-ganymede-digest"]]
        try:
            for seed, client in zip((11, 12, 13), itertools.cycle(clients)):
                change_model(folder, seed)
                reloaded = client.post("/v1/admin/reload")
                assert reloaded.status_code == 200, reloaded.text
                (model,) = reloaded.json()["loaded"]
                digests.append(model["digest"])
                for each in clients:
                    assert each.get("/v1/models/m").json()["digest"] == model["digest"]
        finally:
            stop = True
        seen = sorted(each for future in running for each in future.result())
    assert len(set(digests)) == 4
    assert {digest for _, _, digest in seen} == set(digests)
    newest_end: dict[int, float] = {}
    for started, ended, digest in seen:
        generation = digests.index(digest)
        # No request that started after the response of a newer generation got an older one.
        assert all(started < newest_end.get(later, ended) for later in range(generation + 1, 4))
        newest_end[generation] = min(ended, newest_end.get(generation, ended))


def test_jobs_are_shared_by_all_processes(clients):
    first, second = clients
    body = {"model": "m", "count": 100_000, "classes": ["fine"]}
    job = first.post("/v1/jobs", json=body)
    assert job.status_code == 202, job.text
    path = job.headers["location"]
    # The limit of a key holds over all processes.
    assert [client.post("/v1/jobs", json=body).status_code for client in clients] == [429, 429]
    wait_until(lambda: second.get(path).json()["state"] == "running")
    assert second.delete(path).json()["state"] == "cancelled"
    assert first.get(path).json()["state"] == "cancelled"
    job = second.post("/v1/jobs", json=body | {"count": 4})
    assert job.status_code == 202, job.text
    path = job.headers["location"]
    wait_until(lambda: first.get(path).json()["state"] == "done")
    files = [client.get(path).json()["files"] for client in clients]
    assert files[0] == files[1] != []
    contents = [client.get(files[0][0]["url"]).content for client in clients]
    assert contents[0] == contents[1]
