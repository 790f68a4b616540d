import concurrent.futures
import contextlib
import os
import signal
import socket
import threading
import time

import httpx
import psutil
import pytest

from tests.support.failing_models import write_failing
from tests.support.servers import Server, serving


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model that takes seconds for a picture of its class `slow`."""
    models = tmp_path_factory.mktemp("failing")
    write_failing(models / "m" / "1")
    return models


def worker_of(server: Server) -> psutil.Process:
    (worker,) = psutil.Process(server.process.pid).children()
    return worker


def ask(client, kind="fine", n=1, **options):
    body = {"model": "m", "seed": 1, "n": n, "class": kind, "format": "npy"}
    return client.post("/v1/generate", json=body, **options)


def wait_until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_busy(server):
    return "ganymede_queue_pixels 0.0" not in httpx.get(server.url + "/metrics").text


@contextlib.contextmanager
def asking(server, kind):
    """A request that is under way in the block; yields its future."""
    with concurrent.futures.ThreadPoolExecutor() as pool, server.client() as client:
        under_way = pool.submit(ask, client, kind)
        wait_until(lambda: is_busy(server) or under_way.done())
        yield under_way


def assert_says_that_it_stops(answer):
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) >= 1


def test_from_the_signal_on_new_work_is_refused_and_accepted_work_is_done(models):
    with serving(models) as server, server.client() as open_connection:
        assert open_connection.get("/readyz").status_code == 200
        with asking(server, "slow") as under_way:
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: open_connection.get("/readyz").status_code == 503)
            assert not under_way.done()
            assert_says_that_it_stops(open_connection.get("/readyz"))
            refused = ask(open_connection)
            assert_says_that_it_stops(refused)
            assert refused.headers["connection"] == "close"
            with server.client() as new_connection:
                assert_says_that_it_stops(ask(new_connection))
            assert under_way.result().status_code == 200
        assert server.process.wait(30) == 0
        assert "Traceback" not in server.logged()


def connected(server, *, receive_buffer: int | None = None) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.socket()
    connection.settimeout(60)
    if receive_buffer is not None:
        # The kernel grows what is not set before the connection is made.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.connect((host, int(port)))
    return connection


def test_a_client_that_never_finishes_its_request_is_told_and_does_not_hold_the_stop(models):
    with serving(models) as server, connected(server) as uploading, connected(server) as dawdling:
        head = "POST /v1/generate HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
        uploading.sendall(f'{head}Content-Type: application/json\r\n\r\n{{"mod'.encode())
        dawdling.sendall(head.encode())
        time.sleep(0.5)
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert uploading.recv(65536).startswith(b"HTTP/1.1 503 ")
        assert server.process.wait(30) == 0
        assert time.monotonic() - began < 15  # Of the 20 seconds that accepted work has.


def test_a_client_that_never_reads_its_answer_holds_the_stop_no_longer_than_the_drain(tmp_path):
    write_failing(tmp_path / "m" / "1")
    environment = {"GANYMEDE_DRAIN_S": "2", "GANYMEDE_MAX_IMAGES": "10000"}
    # More bytes than the four million that the kernel takes from the server.
    body = (
        b'{"model": "m", "seed": 1, "n": 10000, "class": "fine", "format": "png", "return": ["z"]}'
    )
    with (
        serving(tmp_path, env=environment) as server,
        connected(server, receive_buffer=4096) as deaf,
    ):
        deaf.sendall(
            b"POST /v1/generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Accept: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        assert deaf.recv(12) == b"HTTP/1.1 200"
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        assert "ended with open connections" in server.logged()


def test_work_that_takes_longer_than_the_drain_gets_a_clean_503(models):
    with serving(models, env={"GANYMEDE_DRAIN_S": "1"}) as server:
        with asking(server, "hangs") as under_way:
            server.process.send_signal(signal.SIGTERM)
            assert_says_that_it_stops(under_way.result())
        assert server.process.wait(30) == 0


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(models, first):
    with serving(models, env={"GANYMEDE_DRAIN_S": "300"}) as server:
        worker = worker_of(server)
        with asking(server, "hangs") as under_way:
            server.process.send_signal(first)
            time.sleep(2)
            assert server.process.poll() is None
            server.process.send_signal(signal.SIGTERM)
            server.process.wait(20)
            assert isinstance(under_way.exception(), httpx.TransportError)
        assert not worker.is_running()


def test_ctrl_c_reaches_both_processes_and_is_one_stop(models):
    with serving(models) as server, asking(server, "slow") as under_way:
        os.killpg(server.process.pid, signal.SIGINT)
        assert under_way.result().status_code == 200
        assert server.process.wait(30) == 0


def test_a_stop_while_the_models_load_is_a_stop(models):
    with serving(models, until="live") as server:
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0


def test_a_worker_that_dies_is_replaced(models):
    with serving(models) as server, server.client() as client:
        for kind in (signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV):
            worker = worker_of(server)
            worker.send_signal(kind)
            worker.wait(10)
            wait_until(lambda: psutil.Process(server.process.pid).children())
            assert worker_of(server).pid != worker.pid
            # New connections wait for the new worker, whose socket is the arbiter's.
            assert httpx.get(server.url + "/livez", timeout=60).status_code == 200
            wait_until(lambda: httpx.get(server.url + "/readyz", timeout=60).status_code == 200)
        assert ask(client).status_code == 200


def test_in_a_container_the_service_ends_with_its_worker_and_says_so_by_its_status(models):
    with serving(models, env={"BENTOML_CONTAINERIZED": "true"}) as server:
        worker_of(server).kill()
        assert server.process.wait(30) != 0


def test_a_worker_does_not_outlive_its_arbiter(models):
    with serving(models) as server:
        worker = worker_of(server)
        with asking(server, "slow") as under_way:
            server.process.kill()
            # What was accepted is done, and no other service finds the port taken meanwhile.
            assert under_way.result().status_code == 200
        worker.wait(30)


def test_a_run_that_hangs_has_the_process_replaced(models):
    environment = {"GANYMEDE_DEADLINE_S": "2", "GANYMEDE_HANG_S": "4", "GANYMEDE_DRAIN_S": "5"}
    with serving(models, env=environment) as server, server.client() as client:
        worker = worker_of(server)
        asked = time.monotonic()
        assert ask(client, "hangs").status_code == 504
        assert time.monotonic() - asked < 15  # By its deadline, or little later.
        worker.wait(60)
        assert "has not ended for" in server.logged()
        wait_until(lambda: psutil.Process(server.process.pid).children())
        wait_until(lambda: httpx.get(server.url + "/readyz", timeout=60).status_code == 200)
        with server.client() as another:
            assert ask(another).status_code == 200


def test_no_request_that_was_begun_is_lost_at_a_stop_under_load(models):
    with serving(models) as server:
        signalled = threading.Event()
        lost: list[str] = []
        statuses: list[int] = []

        def load():
            with server.client() as client:
                while True:
                    begun_before = not signalled.is_set()
                    try:
                        answer = ask(client, n=8)
                    except httpx.TransportError as error:
                        # Who comes when the socket has closed finds nobody.
                        if begun_before:
                            lost.append(repr(error))
                        return
                    statuses.append(answer.status_code)
                    if answer.status_code == 503:
                        assert int(answer.headers["retry-after"]) >= 1
                    elif len(answer.content) != 128 + 8 * 16 * 16:
                        lost.append(f"{len(answer.content)} bytes")

        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            for _ in range(16):
                pool.submit(load)
            wait_until(lambda: len(statuses) > 200, 60)
            signalled.set()
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(40) == 0
        assert lost == []
        assert set(statuses) <= {200, 503}
        assert 200 in statuses
        assert "Traceback" not in server.logged()
