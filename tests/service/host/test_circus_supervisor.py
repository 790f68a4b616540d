"""The supervisor: signals, and replacement of dead workers."""

import os
import signal
import time

import httpx
import psutil
import pytest

from tests.support.crowd import request_images, request_in_progress
from tests.support.servers import serving, wait_until, worker_of

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_ends_process_at_once(models, first):
    with serving(models, env={"GANYMEDE_DRAIN_S": "300"}) as server:
        worker = worker_of(server)
        with request_in_progress(server, "hangs") as pending:
            server.process.send_signal(first)
            time.sleep(2)
            assert server.process.poll() is None
            server.process.send_signal(signal.SIGTERM)
            server.process.wait(20)
            assert isinstance(pending.exception(), httpx.TransportError)
        assert not worker.is_running()


def test_ctrl_c_counts_as_one_signal(models):
    with serving(models) as server, request_in_progress(server, "slow") as pending:
        os.killpg(server.process.pid, signal.SIGINT)
        assert pending.result().status_code == 200
        assert server.process.wait(30) == 0


def test_sigterm_while_loading_models_exits_cleanly(models):
    with serving(models, until="live") as server:
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0


def test_dead_worker_is_replaced(models):
    with serving(models) as server, server.client() as client:
        for signal_number in (signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV):
            worker = worker_of(server)
            worker.send_signal(signal_number)
            worker.wait(10)
            wait_until(lambda: psutil.Process(server.process.pid).children())
            assert worker_of(server).pid != worker.pid
            # New connections wait for the new worker: the supervisor holds the socket.
            assert httpx.get(server.url + "/livez", timeout=60).status_code == 200
            wait_until(lambda: httpx.get(server.url + "/readyz", timeout=60).status_code == 200)
        assert request_images(client).status_code == 200


def test_container_exits_with_dead_worker(models):
    with serving(models, env={"BENTOML_CONTAINERIZED": "true"}) as server:
        worker_of(server).kill()
        assert server.process.wait(30) != 0
