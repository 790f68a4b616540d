"""Model runs that raise, hang, or exceed the memory."""

import concurrent.futures
import time

import httpx
import numpy as np
import pytest

from tests.support.crowd import ClassRequest, pixels_of, send_concurrently
from tests.support.servers import serving, wait_until, wait_until_ready, worker_of

pytestmark = pytest.mark.slow


def test_failing_row_fails_only_its_request(failing_server, expected, rounds):
    for round_ in range(rounds):
        requests = [
            ClassRequest(1000 * round_ + 10 * i, ["fine"] * (1 + i % 5) + ["raises"] * (i % 4 == 0))
            for i in range(40)
        ]
        for request, response in zip(
            requests, send_concurrently(failing_server, requests), strict=True
        ):
            if "raises" in request.classes:
                assert response.status_code == 500
                assert response.headers["content-type"] == "application/problem+json"
                assert "Traceback" not in response.text
            else:
                assert response.status_code == 200
                assert np.array_equal(pixels_of(response), expected(request))


def test_splits_batches_that_exceed_memory(failing_server, expected, rounds):
    for round_ in range(rounds):
        requests = [
            ClassRequest(1000 * round_ + 10 * i, ["fine", "hungry"] * (1 + i % 4))
            for i in range(24)
        ]
        for request, response in zip(
            requests, send_concurrently(failing_server, requests), strict=True
        ):
            assert response.status_code == 200
            assert np.array_equal(pixels_of(response), expected(request))
    assert "out of memory with a batch of" in failing_server.logged()
    # Logged when it happens, not for every batch.
    assert failing_server.logged().count("out of memory with a batch of") < 10 * rounds + 10
    assert httpx.get(failing_server.url + "/readyz").status_code == 200


def test_recovers_from_hung_run(failing_models, expected, rounds):
    environment = {
        "GANYMEDE_CONCURRENT_BATCHES": "1",  # So that no request overtakes the hung run.
        "GANYMEDE_DEADLINE_S": "3",
        "GANYMEDE_HANG_S": "6",
        "GANYMEDE_DRAIN_S": "3",
        # With a budget, short batches do not run in the event loop's thread.
        "GANYMEDE_MEMORY_BUDGET": "4GiB",
    }
    with serving(failing_models, env=environment) as server:
        for round_ in range(min(rounds, 3)):
            worker = worker_of(server)
            with (
                concurrent.futures.ThreadPoolExecutor() as pool,
                server.client() as client,
                server.client() as another,
            ):
                hung = pool.submit(ClassRequest(1, ["hangs"]).send, client)
                time.sleep(0.5)
                behind = pool.submit(ClassRequest(2, ["fine"]).send, another)
                assert {hung.result().status_code, behind.result().status_code} == {504}
            worker.wait(60)
            wait_until_ready(server)
            fine = ClassRequest(100 * round_, ["fine"] * 3)
            with server.client() as client:
                response = fine.send(client)
            assert response.status_code == 200
            assert np.array_equal(pixels_of(response), expected(fine))
        assert server.logged().count("this process is replaced") == min(rounds, 3)


def test_recovers_from_run_that_hangs_in_the_event_loop(failing_models, expected):
    environment = {"GANYMEDE_HANG_S": "4", "GANYMEDE_DRAIN_S": "3", "GANYMEDE_DEADLINE_S": "120"}
    fine = ClassRequest(7, ["fine"])
    with serving(failing_models, env=environment) as server:
        worker = worker_of(server)
        with concurrent.futures.ThreadPoolExecutor() as pool, server.client() as client:
            # Short batches, after which the model runs in the event loop's thread.
            for _ in range(20):
                assert fine.send(client).status_code == 200
            hung = pool.submit(ClassRequest(1, ["hangs"]).send, client)
            wait_until(lambda: not responds(server))
            assert isinstance(hung.exception(), httpx.TransportError)
        worker.wait(60)
        wait_until_ready(server)
        with server.client() as client:
            response = fine.send(client)
        assert response.status_code == 200
        assert np.array_equal(pixels_of(response), expected(fine))


def responds(server) -> bool:
    try:
        httpx.get(server.url + "/livez", timeout=2)
    except httpx.TransportError:
        return False
    return True
