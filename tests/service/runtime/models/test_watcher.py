import os
import shutil
import threading
import time

import pytest

from service.runtime.models.catalog import ReloadFailed
from service.runtime.models.watcher import Watcher


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "a" / "1")
    return tmp_path


@pytest.fixture
def reloads(folder):
    """A watcher that is not started, and the folders that each reload skips."""
    skipped = []
    return Watcher(folder, 3600, lambda skip: skipped.append(set(skip))), skipped


def write(folder, text="{}"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.json").write_text(text)
    (folder / "generator.onnx").write_text(text)


def ticks(watcher, count):
    for _ in range(count):
        watcher.tick()


def test_no_reload_without_changes(folder, reloads):
    watcher, skipped = reloads
    (folder / "a" / "1" / "notes.txt").write_text("not a part of the model")
    ticks(watcher, 3)
    assert skipped == []


def test_new_folder_is_loaded_once_stable(folder, reloads):
    watcher, skipped = reloads
    for text in ("{", "{ ", "{ }"):  # The folder is being copied.
        write(folder / "b" / "1", text)
        watcher.tick()
        assert skipped == []
    watcher.tick()
    assert skipped == [set()]
    ticks(watcher, 3)
    assert len(skipped) == 1


def test_changing_folder_does_not_delay_others(folder, reloads):
    watcher, skipped = reloads
    write(folder / "b" / "1")
    write(folder / "c" / "1")
    watcher.tick()
    write(folder / "c" / "1", "more")
    watcher.tick()
    assert skipped == [{folder / "c" / "1"}]
    watcher.tick()
    assert skipped[1:] == [set()]


def test_ignores_folders_with_a_leading_dot(folder, reloads):
    watcher, skipped = reloads
    write(folder / "a" / ".2")
    ticks(watcher, 3)
    assert skipped == []
    (folder / "a" / ".2").rename(folder / "a" / "2")
    ticks(watcher, 2)
    assert len(skipped) == 1


def test_detects_changed_and_removed_folders(folder, reloads):
    watcher, skipped = reloads
    os.utime(folder / "a" / "1" / "generator.onnx", (1, 1))
    ticks(watcher, 3)
    assert len(skipped) == 1
    shutil.rmtree(folder / "a")
    watcher.tick()
    assert len(skipped) == 1  # The folder may be in the middle of a replacement.
    ticks(watcher, 3)
    assert len(skipped) == 2


def test_failed_reload_does_not_stop_the_watcher(folder):
    reloaded = threading.Event()
    failed = threading.Event()

    def reload(skip):
        if not failed.is_set():
            failed.set()
            raise OSError
        reloaded.set()

    watcher = Watcher(folder, 0.02, reload)
    watcher.start()
    write(folder / "b" / "1")
    assert failed.wait(10)
    time.sleep(0.1)
    write(folder / "c" / "1")
    assert reloaded.wait(10)
    watcher.stop()


def test_changes_are_tried_again_if_nothing_could_be_loaded(folder):
    skipped = []

    def reload(skip):
        skipped.append(set(skip))
        if len(skipped) < 3:
            raise ReloadFailed("the processes have loaded different content")

    watcher = Watcher(folder, 3600, reload)
    write(folder / "b" / "1")
    ticks(watcher, 6)
    assert skipped == [set()] * 3
