"""Runs that raise, that hang, and for which there is no memory."""

import concurrent.futures
import time

import httpx
import numpy as np

from tests.support.crowd import Ask, crowd, pixels_of
from tests.support.servers import serving, wait_until_ready, worker_of


def test_a_row_that_raises_fails_its_own_request_and_no_other(failing_server, expected, rounds):
    for turn in range(rounds):
        asks = [
            Ask(1000 * turn + 10 * i, ["fine"] * (1 + i % 5) + ["raises"] * (i % 4 == 0))
            for i in range(40)
        ]
        for ask, answer in zip(asks, crowd(failing_server, asks), strict=True):
            if "raises" in ask.classes:
                assert answer.status_code == 500
                assert answer.headers["content-type"] == "application/problem+json"
                assert "Traceback" not in answer.text
            else:
                assert answer.status_code == 200
                assert np.array_equal(pixels_of(answer), expected(ask))


def test_batches_too_large_for_the_memory_are_run_in_parts(failing_server, expected, rounds):
    for turn in range(rounds):
        asks = [Ask(1000 * turn + 10 * i, ["fine", "hungry"] * (1 + i % 4)) for i in range(24)]
        for ask, answer in zip(asks, crowd(failing_server, asks), strict=True):
            assert answer.status_code == 200
            assert np.array_equal(pixels_of(answer), expected(ask))
    assert "too many for the memory" in failing_server.logged()
    # Said once when it happens, and not for every batch.
    assert failing_server.logged().count("too many for the memory") < 10 * rounds + 10
    assert httpx.get(failing_server.url + "/readyz").status_code == 200


def test_behind_a_run_that_hangs_all_get_their_504_and_the_service_recovers(
    failing_models, expected, rounds
):
    environment = {
        "GANYMEDE_WORKERS": "1",  # So that nothing passes by the run that hangs.
        "GANYMEDE_DEADLINE_S": "3",
        "GANYMEDE_HANG_S": "6",
        "GANYMEDE_DRAIN_S": "3",
    }
    with serving(failing_models, env=environment) as server:
        for turn in range(min(rounds, 3)):
            worker = worker_of(server)
            with (
                concurrent.futures.ThreadPoolExecutor() as pool,
                server.client() as client,
                server.client() as another,
            ):
                hung = pool.submit(Ask(1, ["hangs"]).send, client)
                time.sleep(0.5)
                began = time.monotonic()
                behind = pool.submit(Ask(2, ["fine"]).send, another)
                assert {hung.result().status_code, behind.result().status_code} == {504}
                assert time.monotonic() - began < 20
            worker.wait(60)
            wait_until_ready(server)
            fine = Ask(100 * turn, ["fine"] * 3)
            with server.client() as client:
                answer = fine.send(client)
            assert answer.status_code == 200
            assert np.array_equal(pixels_of(answer), expected(fine))
        assert server.logged().count("this process is replaced") == min(rounds, 3)
