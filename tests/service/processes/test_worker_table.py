import os

import pytest

from service.processes import worker_table
from service.processes.worker_table import WorkerTable
from tests.support.processes import joined_worker

QUEUE_5 = 'table.own["queue_pixels"] = 5'


def test_worker_sees_the_rows_of_all_living_workers(tmp_path):
    table = WorkerTable(tmp_path, 2)
    with joined_worker(tmp_path, QUEUE_5, 2) as other:
        assert table.join() == 1
        table.own["queue_pixels"] = 2
        rows = list(table.living())
        assert [row["pid"] for row in rows] == [other.pid, os.getpid()]
        assert sum(row["queue_pixels"] for row in rows) == 7
    assert [row["pid"] for row in table.living()] == [os.getpid()]


def test_row_of_a_dead_worker_is_emptied_by_the_next(tmp_path):
    with joined_worker(tmp_path, QUEUE_5, 2):
        pass
    table = WorkerTable(tmp_path, 2)
    assert not list(table.living())
    assert table.join() == 0
    assert table.own["queue_pixels"] == 0
    assert table.own["pid"] == os.getpid()


def test_join_returns_the_same_row_again(tmp_path):
    table = WorkerTable(tmp_path, 2)
    assert table.join() == table.join() == table.index == 0


def test_join_raises_when_all_rows_are_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(worker_table, "_JOIN_S", 0.1)
    with joined_worker(tmp_path, QUEUE_5, 2), joined_worker(tmp_path, QUEUE_5, 2):
        table = WorkerTable(tmp_path, 2)
        with pytest.raises(RuntimeError, match="already has 2 workers"):
            table.join()
        with pytest.raises(RuntimeError, match="no row"):
            _ = table.index


def test_all_processes_read_what_applies_to_the_server(tmp_path):
    first, second = WorkerTable(tmp_path, 2), WorkerTable(tmp_path, 2)
    with first.locked():
        first.server["requested"] += 1
    assert second.server["requested"] == 1
