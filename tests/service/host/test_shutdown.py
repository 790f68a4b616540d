"""Signals, draining, hung runs and a dead supervisor, with the real service."""

import concurrent.futures
import itertools
import signal
import subprocess
import sys
import time

import httpx
import psutil
import pytest

from tests.support.crowd import request_images, request_in_progress
from tests.support.failing_models import write_failing
from tests.support.servers import serving, wait_until, worker_of

pytestmark = pytest.mark.slow


def assert_stopping(response):
    assert response.status_code == 503
    assert response.headers["content-type"] == "application/problem+json"
    assert int(response.headers["retry-after"]) >= 1


def test_refuses_new_requests_and_completes_accepted_ones(models):
    with serving(models) as server, server.client() as open_connection:
        assert open_connection.get("/readyz").status_code == 200
        with request_in_progress(server, "slow") as pending:
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: open_connection.get("/readyz").status_code == 503)
            assert not pending.done()
            assert_stopping(open_connection.get("/readyz"))
            refused = request_images(open_connection)
            assert_stopping(refused)
            assert refused.headers["connection"] == "close"
            with server.client() as new_connection:
                assert_stopping(request_images(new_connection))
            assert pending.result().status_code == 200
        assert server.process.wait(30) == 0
        assert "Traceback" not in server.logged()


def test_first_signal_does_not_interrupt_a_process_that_is_ending():
    code = """
import asyncio, os, signal
from pathlib import Path
from service.host.shutdown import GracefulShutdown
from service.runtime.scheduling.engine import Engine

async def main():
    engine = Engine(Path("models"), provider="cpu", queue_pixels=1)
    shutdown = GracefulShutdown(engine, None, None, drain_s=60, hang_s=60)
    shutdown.start()
    shutdown.end("others start in its place")
    signal.raise_signal(signal.SIGTERM)
    print("drains", flush=True)
    os._exit(0)

asyncio.run(main())
"""
    command = [sys.executable, "-c", code]
    process = subprocess.run(command, check=False, capture_output=True, text=True)
    assert process.stdout == "drains\n", process.stderr


def test_incomplete_upload_gets_503_and_does_not_block_stop(models):
    head = "POST /v1/generate HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
    with (
        serving(models, env={"GANYMEDE_DRAIN_S": "300"}) as server,
        server.connect() as incomplete_body,
        server.connect() as incomplete_headers,
    ):
        incomplete_body.sendall(f'{head}Content-Type: application/json\r\n\r\n{{"mod'.encode())
        incomplete_headers.sendall(head.encode())
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        assert incomplete_body.recv(65536).startswith(b"HTTP/1.1 503 ")
        # Much less than the drain time.
        assert server.process.wait(100) == 0


def test_client_that_does_not_read_blocks_stop_only_for_drain_time(tmp_path):
    write_failing(tmp_path / "m" / "1")
    environment = {"GANYMEDE_DRAIN_S": "2", "GANYMEDE_MAX_IMAGES": "10000"}
    # The response has more bytes than the four million that the kernel buffers.
    body = (
        b'{"model": "m", "seed": 1, "n": 10000, "class": "fine", "format": "png", "return": ["z"]}'
    )
    with (
        serving(tmp_path, env=environment) as server,
        server.connect(receive_buffer=4096) as client,
    ):
        client.sendall(
            b"POST /v1/generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Accept: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        assert client.recv(12) == b"HTTP/1.1 200"
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        assert "ended with open connections" in server.logged()


def test_work_beyond_drain_time_gets_503(models):
    with serving(models, env={"GANYMEDE_DRAIN_S": "1"}) as server:
        with request_in_progress(server, "hangs") as pending:
            server.process.send_signal(signal.SIGTERM)
            assert_stopping(pending.result())
        assert server.process.wait(30) == 0


def test_worker_ends_with_its_supervisor(models):
    with serving(models) as server:
        worker = worker_of(server)
        with request_in_progress(server, "slow") as pending:
            server.process.kill()
            # Accepted work is completed.
            assert pending.result().status_code == 200
        worker.wait(30)


def test_hung_run_replaces_process(models):
    environment = {"GANYMEDE_DEADLINE_S": "2", "GANYMEDE_HANG_S": "4", "GANYMEDE_DRAIN_S": "5"}
    with serving(models, env=environment) as server, server.client() as client:
        worker = worker_of(server)
        assert request_images(client, "hangs").status_code == 504
        worker.wait(60)
        assert "has not ended for" in server.logged()
        wait_until(lambda: psutil.Process(server.process.pid).children())
        wait_until(lambda: httpx.get(server.url + "/readyz", timeout=60).status_code == 200)
        with server.client() as another:
            assert request_images(another).status_code == 200


def test_stop_under_load_loses_no_accepted_request(models):
    failed_ids: list[str] = []
    statuses: list[int] = []

    def send_until_closed(number: int) -> None:
        with server.client() as client:
            for i in itertools.count():
                request_id = f"load-{number}-{i}"
                try:
                    response = request_images(client, n=8, headers={"x-request-id": request_id})
                except httpx.TransportError:
                    failed_ids.append(request_id)
                    return
                statuses.append(response.status_code)
                if response.status_code == 503:
                    assert int(response.headers["retry-after"]) >= 1
                else:
                    assert len(response.content) == 128 + 8 * 16 * 16

    with serving(models) as server, concurrent.futures.ThreadPoolExecutor(16) as pool:
        clients = [pool.submit(send_until_closed, number) for number in range(16)]
        wait_until(lambda: len(statuses) > 200)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
        for client in clients:
            client.result()
        log = server.logged()
    # Requests fail once the sockets are closed, but none that the service has received.
    assert [request_id for request_id in failed_ids if f'"{request_id}"' in log] == []
    assert "ended with open connections" not in log
    assert set(statuses) <= {200, 503}
    assert 200 in statuses
    assert "Traceback" not in log


@pytest.mark.parametrize("processes", ["1", "2"])
def test_stop_resets_no_connection(models, processes):
    """Each request has a connection of its own, so that some always wait in the backlog."""
    body = b'{"model": "m", "seed": 1, "class": "fine", "format": "npy"}'
    request = (
        b"POST /v1/generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    outcomes: list[bytes] = []

    def send_until_refused() -> None:
        while True:
            try:
                connection = server.connect()
            except ConnectionRefusedError:
                return
            # Any other error, such as a reset, fails the test.
            with connection:
                connection.sendall(request)
                response = b""
                while part := connection.recv(65536):
                    response += part
            outcomes.append(response[:12])

    with (
        serving(models, "--processes", processes) as server,
        concurrent.futures.ThreadPoolExecutor(32) as pool,
    ):
        clients = [pool.submit(send_until_refused) for _ in range(32)]
        wait_until(lambda: len(outcomes) > 200)
        server.process.send_signal(signal.SIGTERM)
        for client in clients:
            client.result()
        assert server.process.wait(60) == 0
    assert set(outcomes) == {b"HTTP/1.1 200", b"HTTP/1.1 503"}
