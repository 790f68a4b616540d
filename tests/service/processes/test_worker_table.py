import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from service.processes import worker_table
from service.processes.worker_table import WorkerTable

OTHER_WORKER = """
import sys
from pathlib import Path
from service.processes.worker_table import WorkerTable
table = WorkerTable(Path(sys.argv[1]), 2)
table.join()
table.own["queue_pixels"] = 5
print("joined", flush=True)
sys.stdin.read()
"""


@contextmanager
def other_worker(folder: Path):
    """A process that is a worker until the end of the block, when it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER_WORKER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "joined\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_worker_sees_the_rows_of_all_living_workers(tmp_path):
    table = WorkerTable(tmp_path, 2)
    with other_worker(tmp_path) as other:
        assert table.join() == 1
        table.own["queue_pixels"] = 2
        rows = list(table.living())
        assert [row["pid"] for row in rows] == [other.pid, os.getpid()]
        assert sum(row["queue_pixels"] for row in rows) == 7
    assert [row["pid"] for row in table.living()] == [os.getpid()]


def test_row_of_a_dead_worker_is_emptied_by_the_next(tmp_path):
    with other_worker(tmp_path):
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
    with other_worker(tmp_path), other_worker(tmp_path):
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
