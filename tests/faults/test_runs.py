"""Model runs that raise, hang, or exceed the memory."""

import concurrent.futures
import time

import httpx
import numpy as np

from tests.support.crowd import Ask, crowd, pixels_of
from tests.support.servers import serving, wait_until_ready, worker_of


def test_failing_row_fails_only_its_request(failing_server, expected, rounds):
    for round_ in range(rounds):
        asks = [
            Ask(1000 * round_ + 10 * i, ["fine"] * (1 + i % 5) + ["raises"] * (i % 4 == 0))
            for i in range(40)
        ]
        for ask, response in zip(asks, crowd(failing_server, asks), strict=True):
            if "raises" in ask.classes:
                assert response.status_code == 500
                assert response.headers["content-type"] == "application/problem+json"
                assert "Traceback" not in response.text
            else:
                assert response.status_code == 200
                assert np.array_equal(pixels_of(response), expected(ask))


def test_splits_batches_that_exceed_memory(failing_server, expected, rounds):
    for round_ in range(rounds):
        asks = [Ask(1000 * round_ + 10 * i, ["fine", "hungry"] * (1 + i % 4)) for i in range(24)]
        for ask, response in zip(asks, crowd(failing_server, asks), strict=True):
            assert response.status_code == 200
            assert np.array_equal(pixels_of(response), expected(ask))
    assert "out of memory with a batch of" in failing_server.logged()
    # Logged when it happens, not for every batch.
    assert failing_server.logged().count("out of memory with a batch of") < 10 * rounds + 10
    assert httpx.get(failing_server.url + "/readyz").status_code == 200


def test_recovers_from_hung_run(failing_models, expected, rounds):
    environment = {
        "GANYMEDE_WORKERS": "1",  # So that no request overtakes the hung run.
        "GANYMEDE_DEADLINE_S": "3",
        "GANYMEDE_HANG_S": "6",
        "GANYMEDE_DRAIN_S": "3",
    }
    with serving(failing_models, env=environment) as server:
        for round_ in range(min(rounds, 3)):
            worker = worker_of(server)
            with (
                concurrent.futures.ThreadPoolExecutor() as pool,
                server.client() as client,
                server.client() as another,
            ):
                hung = pool.submit(Ask(1, ["hangs"]).send, client)
                time.sleep(0.5)
                behind = pool.submit(Ask(2, ["fine"]).send, another)
                assert {hung.result().status_code, behind.result().status_code} == {504}
            worker.wait(60)
            wait_until_ready(server)
            fine = Ask(100 * round_, ["fine"] * 3)
            with server.client() as client:
                response = fine.send(client)
            assert response.status_code == 200
            assert np.array_equal(pixels_of(response), expected(fine))
        assert server.logged().count("this process is replaced") == min(rounds, 3)
