import concurrent.futures
import signal
import time
from pathlib import Path

import pytest

from service.processes.hung_workers import HungWorkers
from service.processes.worker_table import WorkerTable
from tests.support.crowd import ClassRequest
from tests.support.failing_models import write_failing
from tests.support.processes import joined_worker
from tests.support.servers import serving, wait_until, workers_of

TURNED = 'table.own["beat"] = 1.0'


@pytest.fixture
def table(tmp_path):
    return WorkerTable(tmp_path, 3)


def test_worker_whose_event_loop_does_not_turn_is_killed(tmp_path, table):
    hung = HungWorkers(table, checks=3)
    with joined_worker(tmp_path, TURNED) as worker:
        # The first check only notes the last turn.
        for _ in range(3):
            hung.check()
        time.sleep(0.2)
        assert worker.poll() is None
        hung.check()
        assert worker.wait(60) == -signal.SIGKILL


def test_only_the_worker_that_has_hung_for_longest_is_killed(tmp_path, table):
    hung = HungWorkers(table, checks=3)
    later = 'table.own["beat"] = 2.0'
    with joined_worker(tmp_path, later) as waiting, joined_worker(tmp_path, TURNED) as cause:
        for _ in range(4):
            hung.check()
        assert cause.wait(60) == -signal.SIGKILL
        time.sleep(0.2)
        assert waiting.poll() is None
        hung.check()
        assert waiting.wait(60) == -signal.SIGKILL


def test_worker_whose_event_loop_turns_is_not_killed(tmp_path, table):
    hung = HungWorkers(table, checks=3)
    with joined_worker(tmp_path, TURNED) as worker:
        (row,) = table.living()
        for turn in range(10):
            row["beat"] = turn
            hung.check()
        assert worker.poll() is None


def test_worker_that_starts_is_not_killed(tmp_path, table):
    hung = HungWorkers(table, checks=3)
    with joined_worker(tmp_path) as worker:
        for _ in range(10):
            hung.check()
        assert worker.poll() is None


@pytest.mark.slow
def test_process_that_is_stopped_with_a_lock_is_replaced_and_no_request_is_lost(tmp_path):
    write_failing(tmp_path / "m" / "1")
    with (
        serving(tmp_path, "--processes", "2", env={"GANYMEDE_HANG_S": "4"}) as server,
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        wait_until(lambda: server.logged().count("ready: ") == 2)
        stopped, other = workers_of(server)
        table = WorkerTable(Path(stopped.environ()["GANYMEDE_SERVER_FOLDER"]), 2)
        with server.client() as client:
            # Held until the stopped process dies, as if it was stopped while it held the lock.
            with table.locked():
                stopped.send_signal(signal.SIGSTOP)
                # The other process turns on, until it waits for the lock.
                time.sleep(2)
                waiting = pool.submit(ClassRequest(1, ["fine"]).send, client)
                stopped.wait(60)
            assert waiting.result().status_code == 200
        wait_until(lambda: server.logged().count("ready: ") == 3)
        assert other in workers_of(server)
        assert stopped not in workers_of(server)
