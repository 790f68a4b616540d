import multiprocessing
import time

import numpy as np
import pytest

from service.processes.shared_pixels import SharedPixels
from service.processes.worker_table import WorkerTable
from service.runtime.scheduling.batches import BatchGroup, InferenceJob
from service.runtime.scheduling.errors import QueueFull
from service.runtime.scheduling.scheduler import Scheduler
from tests.support.processes import joined_worker

HOLD_7 = """
from service.processes.shared_pixels import SharedPixels
assert SharedPixels(table, "queue_pixels", 10).reserve(7) == 0
"""
HOLD_4_OF_LOW_PRIORITY = """
from service.processes.shared_pixels import SharedPixels
assert SharedPixels(table, "queue_pixels", 10).reserve(4, low=True) == 0
"""


@pytest.fixture
def table(tmp_path):
    table = WorkerTable(tmp_path, 3)
    table.join()
    return table


def reserve_and_free(folder, times):
    table = WorkerTable(folder, 3)
    table.join()
    bound = SharedPixels(table, "queue_pixels", 5)
    for _ in range(times):
        while bound.reserve(3):
            pass
        # Two processes together would exceed the limit.
        assert sum(table.column("queue_pixels").tolist()) == 3
        bound.free(3)


def test_bounds_the_pixels_of_all_workers(table, tmp_path):
    bound = SharedPixels(table, "queue_pixels", 10)
    assert bound.holders() == 1
    with joined_worker(tmp_path, HOLD_7):
        assert bound.reserve(4) == 1
        assert bound.reserve(3) == 0
        assert bound.reserve(1) == 1
        assert bound.holders() == 2
        bound.free(3)
        assert bound.reserve(3) == 0


def test_low_priority_leaves_half_of_the_limit_of_all_workers(table, tmp_path):
    bound = SharedPixels(table, "queue_pixels", 10)
    with joined_worker(tmp_path, HOLD_4_OF_LOW_PRIORITY):
        assert bound.reserve(2, low=True) == 1
        assert bound.reserve(1, low=True) == 0
        assert bound.reserve(1, low=True) == 1
        assert bound.reserve(5) == 0
        assert bound.reserve(1) == 1
        bound.free(5)
        bound.free(1, low=True)
        assert bound.reserve(1, low=True) == 0
        bound.free(1, low=True)
    # Those of the dead worker do not count, and a single job may exceed the half.
    assert bound.reserve(8, low=True) == 0
    assert bound.reserve(1, low=True) == 4
    assert bound.reserve(2) == 0


def test_pixels_of_a_dead_worker_do_not_count(table, tmp_path):
    with joined_worker(tmp_path, HOLD_7):
        pass
    bound = SharedPixels(table, "queue_pixels", 10)
    assert bound.reserve(10) == 0
    assert bound.holders() == 1


def test_request_of_the_allowed_size_fits_into_an_idle_server(table, tmp_path):
    bound = SharedPixels(table, "queue_pixels", 10)
    with joined_worker(tmp_path, "pass"):
        assert bound.reserve(10) == 0
        bound.free(10)
        assert bound.reserve(11) == 1


def test_reservations_of_several_processes_never_exceed_the_limit(tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=reserve_and_free, args=(tmp_path, 300)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0


def test_schedulers_share_the_queue_limit(table, tmp_path):
    scheduler = Scheduler(time.monotonic, SharedPixels(table, "queue_pixels", 10))
    group = BatchGroup("group", run=dict, max_rows=4, pixels_per_row=1)
    with joined_worker(tmp_path, HOLD_7):
        with pytest.raises(QueueFull):
            scheduler.submit(InferenceJob(group, {"x": np.zeros(4)}))
        job = InferenceJob(group, {"x": np.zeros(3)})
        scheduler.submit(job)
        scheduler.cancel(job)
        assert table.own["queue_pixels"] == 0


def test_retry_after_counts_all_processes_that_work_the_queue_off(table, tmp_path):
    now = [0.0]

    def run(feeds):
        now[0] += 2.0
        return feeds

    group = BatchGroup("group", run, max_rows=4, pixels_per_row=1)
    scheduler = Scheduler(lambda: now[0], SharedPixels(table, "queue_pixels", 20))
    scheduler.submit(InferenceJob(group, {"x": np.zeros(4)}))
    batch = scheduler.take(0)
    assert batch is not None
    scheduler.execute(batch)
    with joined_worker(tmp_path, HOLD_7):
        with pytest.raises(QueueFull) as alone:
            scheduler.submit(InferenceJob(group, {"x": np.zeros(14)}))
        scheduler.submit(InferenceJob(group, {"x": np.zeros(4)}))
        with pytest.raises(QueueFull) as shared:
            scheduler.submit(InferenceJob(group, {"x": np.zeros(10)}))
    # One pixel too many in both cases, which one process generates in half a second.
    assert alone.value.retry_after == pytest.approx(0.5)
    assert shared.value.retry_after == pytest.approx(0.25)
