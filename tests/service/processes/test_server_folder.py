import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from service.processes.server_folder import ServerFolder
from service.processes.worker_table import WorkerTable


def test_workers_find_the_folder_by_environment_variables(monkeypatch):
    folder = ServerFolder.create(3)
    for name, value in folder.environment().items():
        monkeypatch.setenv(name, value)
    assert ServerFolder.of_this_server() == folder
    folder.remove()
    assert not folder.path.exists()


def test_worker_without_a_supervisor_is_alone():
    folder = ServerFolder.of_this_server()
    assert (folder.size, folder.wanted) == (1, 1)
    folder.remove()


def test_supervisor_reads_what_a_worker_has_decided():
    folder = ServerFolder.create(1, decided=False)
    assert folder.wanted == 0
    table = WorkerTable(folder.path, folder.size)
    assert folder.wanted == 0
    with table.locked():
        table.server["wanted"] = 5
    assert folder.wanted == 5
    folder.remove()


def test_decided_number_is_in_the_table_of_workers():
    folder = ServerFolder.create(3)
    assert WorkerTable(folder.path, folder.size).server["wanted"] == folder.wanted == 3
    folder.remove()


def test_stop_is_noted():
    folder = ServerFolder.create(1)
    assert not folder.is_stopping
    folder.note_stop()
    assert folder.is_stopping
    folder.remove()


def test_folder_of_a_killed_server_is_removed_by_the_next():
    code = "from service.processes.server_folder import *; print(ServerFolder.create(1).path)"
    killed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    path = Path(killed.stdout.strip())
    assert path.exists()
    living = ServerFolder.create(1)
    another = ServerFolder.create(1)
    assert not path.exists()
    assert living.path.exists()
    living.remove()
    another.remove()


def test_folder_is_not_in_memory_without_space(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    size = shutil.disk_usage("/dev/shm").free // 2**20
    folder = ServerFolder.create(size)
    assert folder.path.parent == tmp_path
    folder.remove()
