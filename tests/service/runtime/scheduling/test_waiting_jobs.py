import numpy as np
import pytest

from service.runtime.scheduling.batches import BatchGroup, InferenceJob, Priority
from service.runtime.scheduling.errors import QueueFull
from service.runtime.scheduling.scheduler import Scheduler
from service.runtime.scheduling.waiting_jobs import MAX_PASSED

HIGH, NORMAL, LOW = Priority
MAX_ROWS = 4


def group(key="group", pixels_per_row=1) -> BatchGroup:
    return BatchGroup(key, lambda feeds: {"y": feeds["x"] * 2}, MAX_ROWS, pixels_per_row)


def job(priority, rows=1, of=None, **options) -> InferenceJob:
    return InferenceJob(of or group(), {"x": np.arange(rows)}, priority=priority, **options)


def scheduler(limit=1000, **options) -> Scheduler:
    return Scheduler(lambda: 0.0, limit, **options)


def leads(scheduler, batches) -> list[Priority]:
    """Run batches, and return the priority that led each."""
    led = []
    for _ in range(batches):
        batch = scheduler.take(timeout=0)
        led.append(batch.parts[0].job.priority)
        scheduler.execute(batch)
    return led


def test_higher_priority_runs_first():
    queue = scheduler()
    for priority in (LOW, NORMAL, HIGH):
        queue.submit(job(priority, MAX_ROWS))
    assert leads(queue, 3) == [HIGH, NORMAL, LOW]


def test_priority_holds_over_groups():
    queue = scheduler()
    queue.submit(job(LOW, of=group("a")))
    queue.submit(job(NORMAL, of=group("b")))
    queue.submit(job(HIGH, of=group("c")))
    batches = [queue.take(timeout=0).group.key for _ in range(3)]
    assert batches == ["c", "b", "a"]


def test_batch_is_filled_from_lower_priorities():
    queue = scheduler()
    jobs = [job(LOW, 2), job(NORMAL), job(HIGH, 2)]
    for each in jobs:
        queue.submit(each)
    batch = queue.take(timeout=0)
    assert [(part.job.priority, part.rows) for part in batch.parts] == [
        (HIGH, 2),
        (NORMAL, 1),
        (LOW, 1),
    ]
    queue.execute(batch)
    queue.execute(queue.take(timeout=0))
    assert [each.future.result(0)["y"].tolist() for each in jobs] == [[0, 2], [0], [0, 2]]


@pytest.mark.parametrize(("lower", "share"), [(NORMAL, 5), (LOW, 17)])
def test_lower_priority_gets_its_share_under_load(lower, share):
    queue = scheduler()
    queue.submit(job(lower, 3 * MAX_ROWS))
    led = []
    for _ in range(3 * share):
        # Every batch is full of the urgent rows that have arrived.
        queue.submit(job(HIGH, MAX_ROWS))
        led += leads(queue, 1)
    assert [number for number, level in enumerate(led) if level is lower] == [
        share - 1,
        2 * share - 1,
        3 * share - 1,
    ]


def test_all_levels_get_their_share_under_load():
    queue = scheduler(limit=10_000)
    for priority in (NORMAL, LOW):
        queue.submit(job(priority, 100 * MAX_ROWS))
    led = []
    for _ in range(170):
        queue.submit(job(HIGH, MAX_ROWS))
        led += leads(queue, 1)
    assert led.count(LOW) == 10
    assert led.count(NORMAL) == pytest.approx(170 / 5.5, abs=3)
    assert led.count(HIGH) > 120


def test_groups_of_a_level_take_turns_under_load():
    queue = scheduler()
    for key in "ab":
        queue.submit(job(LOW, 2 * MAX_ROWS, of=group(key)))
    order = []
    for _ in range(4 * 17):
        queue.submit(job(HIGH, MAX_ROWS, of=group("urgent")))
        batch = queue.take(timeout=0)
        order += [batch.group.key] if batch.group.key != "urgent" else []
        queue.execute(batch)
    assert order == ["a", "b", "a", "b"]


def test_count_of_passed_batches_ends_with_the_jobs():
    queue = scheduler()
    first = job(LOW)
    queue.submit(first)
    for _ in range(10):
        queue.submit(job(HIGH, MAX_ROWS))
        leads(queue, 1)
    queue.cancel(first)
    queue.submit(job(LOW))
    for _ in range(17):
        queue.submit(job(HIGH, MAX_ROWS))
    assert leads(queue, 17) == [HIGH] * 16 + [LOW]


def test_low_priority_leaves_half_of_the_queue():
    queue = scheduler(limit=20)
    queue.submit(job(LOW, 8))
    with pytest.raises(QueueFull):
        queue.submit(job(LOW, 3))
    queue.submit(job(LOW, 2))
    queue.submit(job(NORMAL, 5))
    queue.submit(job(HIGH, 5))
    leads(queue, 5)
    assert queue.pixels == 0
    queue.submit(job(LOW, 10))


def test_single_job_of_low_priority_may_exceed_half_of_the_queue():
    queue = scheduler(limit=20)
    queue.submit(job(LOW, 20))
    leads(queue, 5)
    queue.submit(job(LOW, 20))


def test_large_batch_is_not_passed_forever_by_urgent_small_ones():
    queue = scheduler(slots=2)
    queue.submit(job(NORMAL, of=BatchGroup("wide", lambda feeds: feeds, MAX_ROWS, 1, slots=2)))
    running = []
    for _ in range(MAX_PASSED[NORMAL]):
        # One small batch always runs, so the wide one never fits.
        queue.submit(job(HIGH, of=group("small")))
        running.append(queue.take(timeout=0))
        if len(running) == 2:
            queue.execute(running.pop(0))
    queue.submit(job(HIGH, of=group("small")))
    assert queue.take(timeout=0) is None
    queue.execute(running.pop())
    assert queue.take(timeout=0).group.key == "wide"
