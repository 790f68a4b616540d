import signal
import time

import pytest

from service.processes.hung_workers import HungWorkers
from service.processes.worker_table import WorkerTable
from tests.support.processes import joined_worker

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
