import multiprocessing
from pathlib import Path

import numpy as np

from service.processes.shared_array import SharedArray

COUNTERS = np.dtype([("count", np.int64), ("pid", np.int64)])


def count(path: Path, times: int) -> None:
    array = SharedArray(path, COUNTERS, 3)
    for _ in range(times):
        with array.locked() as values:
            values[1]["count"] += 1


def test_new_array_is_zero_and_has_its_length(tmp_path):
    array = SharedArray(tmp_path / "array", COUNTERS, 3)
    assert len(array.values) == 3
    assert not array.values["count"].any()


def test_new_array_takes_its_space_at_once(tmp_path):
    SharedArray(tmp_path / "array", COUNTERS, 10_000)
    assert (tmp_path / "array").stat().st_blocks * 512 >= 10_000 * COUNTERS.itemsize


def test_writes_are_seen_by_other_instances(tmp_path):
    first, second = (SharedArray(tmp_path / "array", COUNTERS, 3) for _ in range(2))
    first.values[2]["pid"] = 7
    assert second.values[2]["pid"] == 7


def test_locked_excludes_other_processes(tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=count, args=(tmp_path / "array", 2_000)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert SharedArray(tmp_path / "array", COUNTERS, 3).values[1]["count"] == 6_000
