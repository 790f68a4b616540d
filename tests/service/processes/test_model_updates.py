"""Reloads over several processes, with two engines that have a row each in one table."""

import concurrent.futures
import shutil
from pathlib import Path

import pytest

from service.processes.model_updates import SharedModelUpdates
from service.processes.worker_table import WorkerTable
from service.runtime.models.catalog import ReloadFailed, RepositoryUnreadable
from service.runtime.scheduling.engine import Engine, EngineState
from tests.support.failing_models import write_failing
from tests.support.processes import joined_worker
from tests.support.servers import wait_until

# A process that takes part in reloads, but never loads anything.
STUCK = 'table.own["reloads"] = 1'


@pytest.fixture
def models(tmp_path):
    write_failing(tmp_path / "models" / "m" / "1", seed=1)
    return tmp_path / "models"


@pytest.fixture
def start(tmp_path):
    """Start the engine of a further process of the server."""
    engines = []

    def start_engine(models: Path, timeout_s: float = 60) -> Engine:
        table = WorkerTable(tmp_path / "server", 3)
        table.join()
        engine = Engine(models, provider="cpu", queue_pixels=10**6)
        engine.share_updates(SharedModelUpdates(table, engine, timeout_s))
        engine.start()
        engines.append(engine)
        return engine

    yield start_engine
    for engine in engines:
        engine.drain(10)


def change(models: Path, seed: int) -> None:
    """Replace the model by another one, atomically."""
    new = write_failing(models.parent / f"new-{seed}" / "m" / "1", seed=seed)
    (models / "m" / "1").rename(models.parent / f"old-{seed}")
    new.rename(models / "m" / "1")


def digest(engine: Engine) -> str:
    return engine.catalog.get("m").digest


def test_reload_applies_to_all_processes_at_once(models, start):
    first, second = start(models), start(models)
    old = digest(first)
    assert digest(second) == old
    change(models, 2)
    changes = second.reload()
    assert [entry.id for entry in changes.loaded] == ["m@1"]
    # Without waiting: the next request of any process gets the new model.
    assert digest(first) == digest(second) != old
    assert [entry.id for entry in first.reload().kept] == ["m@1"]


def test_no_process_serves_the_previous_model_after_the_new_one(models, start):
    engines = [start(models), start(models)]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for seed in range(2, 6):
            old = digest(engines[0])
            change(models, seed)
            reloading = pool.submit(engines[0].reload)
            seen = []
            while not reloading.done():
                seen += [digest(engine) for engine in engines]
            reloading.result()
            seen += [digest(engine) for engine in engines]
            switch = seen.index(digest(engines[0]))
            assert set(seen[:switch]) <= {old}
            assert set(seen[switch:]) == {digest(engines[0])}


def test_failure_of_one_process_keeps_the_models_of_all(models, start, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(models)
    first, second = start(models), start(link)
    old = digest(first)
    change(models, 2)
    link.unlink()
    with pytest.raises(ReloadFailed, match=r"process 1: .*link does not exist"):
        first.reload()
    with pytest.raises(RepositoryUnreadable):
        second.reload()
    assert digest(first) == digest(second) == old
    link.symlink_to(models)
    first.reload()
    assert digest(first) == digest(second) != old


def test_different_content_keeps_the_models_of_all(models, start, tmp_path):
    copy = shutil.copytree(models, tmp_path / "copy" / "models")
    first, second = start(models), start(copy)
    old = digest(first)
    change(models, 2)
    change(copy, 3)
    with pytest.raises(ReloadFailed, match="different content of m@1"):
        first.reload()
    assert digest(first) == digest(second) == old


def test_broken_model_keeps_its_previous_version_everywhere(models, start):
    first, second = start(models), start(models)
    old = digest(first)
    graph = models / "m" / "1" / "generator.onnx"
    graph.write_bytes(graph.read_bytes()[:-10])
    assert [entry.id for entry in first.reload().failed] == ["m@1"]
    assert digest(first) == digest(second) == old
    assert "still serves the previous" in second.catalog.entry("m").reason


def test_process_that_dies_does_not_block_a_reload(models, start, tmp_path):
    first = start(models)
    old = digest(first)
    change(models, 2)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        with joined_worker(tmp_path / "server", STUCK):
            reloading = pool.submit(first.reload)
            with pytest.raises(concurrent.futures.TimeoutError):
                reloading.result(0.5)
            assert digest(first) == old
        reloading.result(60)
    assert digest(first) != old


def test_reload_fails_if_a_process_takes_too_long(models, start, tmp_path):
    first, second = start(models, timeout_s=0.5), start(models)
    old = digest(first)
    change(models, 2)
    with joined_worker(tmp_path / "server", STUCK):
        with pytest.raises(ReloadFailed, match=r"process 2 has not loaded the models in 0\.5 s"):
            first.reload()
        # What the others have loaded is dropped.
        wait_until(lambda: second._updates._prepared is None)
        assert digest(first) == digest(second) == old
    second.reload()
    assert digest(first) == digest(second) != old


def test_later_process_and_earlier_ones_serve_the_same(models, start):
    first = start(models)
    old = digest(first)
    change(models, 2)
    assert digest(first) == old
    second = start(models)
    assert digest(first) == digest(second) != old


def test_later_process_starts_with_what_was_reloaded(models, start, tmp_path):
    first = start(models)
    change(models, 2)
    first.reload()
    table = WorkerTable(tmp_path / "server", 3)
    generation = table.server["active"]
    second = start(models)
    assert digest(first) == digest(second)
    assert table.server["active"] == generation


def test_failed_processes_become_ready_together(tmp_path, start):
    models = tmp_path / "models"
    models.mkdir()
    engines = [start(models), start(models)]
    assert [engine.state for engine in engines] == [EngineState.FAILED] * 2
    write_failing(models / "m" / "1")
    engines[1].reload()
    assert digest(engines[0]) == digest(engines[1])
    assert [engine.state for engine in engines] == [EngineState.READY] * 2


def test_one_process_watches_the_folder(models, start):
    first, second = start(models), start(models)
    assert first._updates.may_watch()
    assert not second._updates.may_watch()
    first.drain(10)
    assert second._updates.may_watch()


# A process that asks for a reload and never switches.
ASKS = """
import fcntl, json, os
lock = os.open(table.folder / "reload.lock", os.O_RDWR | os.O_CREAT)
fcntl.flock(lock, fcntl.LOCK_EX)
(table.folder / "reload.json").write_text(json.dumps({"generation": 1, "skip": []}))
table.server["requested"] = 1
"""


def test_nothing_remains_of_the_reload_of_a_process_that_dies(models, start, tmp_path):
    engine = start(models)
    updates, old = engine._updates, digest(engine)
    change(models, 2)
    with joined_worker(tmp_path / "server", ASKS):
        wait_until(lambda: updates._prepared is not None)
        assert digest(engine) == old
    wait_until(lambda: updates._prepared is None)
    assert digest(engine) == old
    engine.reload()
    assert digest(engine) != old


def test_process_that_missed_a_generation_reloads(models, start, tmp_path):
    engine = start(models)
    old = digest(engine)
    change(models, 2)
    WorkerTable(tmp_path / "server", 3).server["active"] = 5
    wait_until(lambda: digest(engine) != old)
