import threading
import time
from concurrent.futures import CancelledError, wait
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.runtime.scheduling.batch_history import SMALLER_BATCHES_S
from service.runtime.scheduling.batches import (
    Batch,
    BatchGroup,
    InferenceJob,
    Priority,
    RowCountMismatch,
)
from service.runtime.scheduling.errors import DeadlineExceeded, Draining, JobTooLarge, QueueFull
from service.runtime.scheduling.pixel_bounds import LocalPixelBound
from service.runtime.scheduling.scheduler import Scheduler
from service.runtime.scheduling.workers import Workers


class FakeClock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def doubling_group(key="group", max_rows=4, pixels_per_row=1, poison=(), ran=None) -> BatchGroup:
    """A group that doubles its inputs; batches with a row of `poison` raise."""

    def run(feeds):
        x = feeds["x"]
        if ran is not None:
            ran.append((key, x.tolist()))
        if set(x.tolist()) & set(poison):
            raise ValueError("poisoned")
        return {"y": x * 2}

    return BatchGroup(key, run, max_rows, pixels_per_row)


def job(group, *rows, deadline=float("inf")) -> InferenceJob:
    return InferenceJob(group, {"x": np.array(rows)}, deadline)


def run_all(scheduler) -> None:
    while (batch := scheduler.take(timeout=0)) is not None:
        scheduler.execute(batch)


def result(job) -> list:
    return job.future.result(timeout=0)["y"].tolist()


def test_jobs_of_a_group_share_a_batch():
    ran = []
    group = doubling_group(ran=ran)
    scheduler = Scheduler(FakeClock(), limit=100)
    jobs = [job(group, 1), job(group, 2, 3), job(group, 4)]
    for each in jobs:
        scheduler.submit(each)
    run_all(scheduler)
    assert ran == [("group", [1, 2, 3, 4])]
    assert [result(each) for each in jobs] == [[2], [4, 6], [8]]


def test_large_job_is_split_and_reassembled():
    ran = []
    scheduler = Scheduler(FakeClock(), limit=100)
    large = job(doubling_group(ran=ran), *range(10))
    scheduler.submit(large)
    run_all(scheduler)
    assert [len(rows) for _, rows in ran] == [4, 4, 2]
    assert result(large) == [2 * i for i in range(10)]


def test_groups_take_turns():
    ran = []
    scheduler = Scheduler(FakeClock(), limit=100)
    scheduler.submit(job(doubling_group("a", ran=ran), *range(12)))
    scheduler.submit(job(doubling_group("b", ran=ran), 1))
    run_all(scheduler)
    assert [key for key, _ in ran] == ["a", "b", "a", "a"]


def test_refuses_jobs_beyond_the_limit():
    scheduler = Scheduler(FakeClock(), limit=5)
    group = doubling_group(pixels_per_row=2)
    scheduler.submit(job(group, 1, 2))
    with pytest.raises(QueueFull):
        scheduler.submit(job(group, 3))
    run_all(scheduler)
    scheduler.submit(job(group, 3))


def test_retry_after_follows_the_measured_speed():
    clock = FakeClock()

    def slow(feeds):
        clock.now += 2.0
        return {"y": feeds["x"]}

    group = BatchGroup("slow", slow, max_rows=4, pixels_per_row=10)
    scheduler = Scheduler(clock, limit=40)
    scheduler.submit(job(group, 1, 2, 3, 4))
    run_all(scheduler)  # 40 pixels in 2 s.
    scheduler.submit(job(group, 1, 2, 3, 4))
    with pytest.raises(QueueFull) as refused:
        scheduler.submit(job(group, 5, 6))
    assert refused.value.retry_after == pytest.approx(1.0)


def test_speed_is_weighted_by_pixels():
    clock = FakeClock()

    def taking(seconds):
        def run(feeds):
            clock.now += seconds
            return {"y": feeds["x"]}

        return run

    images = BatchGroup("images", taking(1.0), max_rows=4, pixels_per_row=1000)
    styles = BatchGroup("styles", taking(0.001), max_rows=4, pixels_per_row=1)
    scheduler = Scheduler(clock, limit=4000)
    for _ in range(20):
        for group in (styles, images):
            scheduler.submit(job(group, 1, 2))
            run_all(scheduler)
    scheduler.submit(job(images, 1, 2, 3, 4))
    with pytest.raises(QueueFull) as refused:
        scheduler.submit(job(images, 5, 6))
    assert refused.value.retry_after == pytest.approx(1.0, rel=0.01)


def test_refuses_a_job_larger_than_the_limit():
    with pytest.raises(JobTooLarge):
        Scheduler(FakeClock(), limit=5).submit(job(doubling_group(), *range(6)))


def test_job_does_not_run_after_its_deadline():
    ran, clock = [], FakeClock()
    scheduler = Scheduler(clock, limit=100)
    group = doubling_group(ran=ran)
    late, early = job(group, 1, deadline=5), job(group, 2, deadline=50)
    scheduler.submit(late)
    scheduler.submit(early)
    clock.now = 5
    run_all(scheduler)
    assert ran == [("group", [2])]
    assert isinstance(late.future.exception(0), DeadlineExceeded)
    assert result(early) == [4]
    assert scheduler.pixels == 0


def test_remaining_rows_are_dropped_at_the_deadline():
    ran, clock = [], FakeClock()
    scheduler = Scheduler(clock, limit=100)
    large = job(doubling_group(ran=ran), *range(8), deadline=5)
    scheduler.submit(large)
    scheduler.execute(scheduler.take(0))
    clock.now = 6
    assert scheduler.take(0) is None
    assert len(ran) == 1
    assert isinstance(large.future.exception(0), DeadlineExceeded)


def test_cancelled_job_does_not_run():
    ran = []
    scheduler = Scheduler(FakeClock(), limit=100)
    cancelled, other = job(doubling_group(ran=ran), 1), job(doubling_group(ran=ran), 2)
    scheduler.submit(cancelled)
    scheduler.submit(other)
    scheduler.cancel(cancelled)
    assert scheduler.pixels == 1
    run_all(scheduler)
    assert ran == [("group", [2])]
    assert cancelled.future.cancelled()
    assert scheduler.pixels == 0


def test_partly_run_job_can_be_cancelled():
    ran = []
    scheduler = Scheduler(FakeClock(), limit=100)
    large = job(doubling_group(ran=ran), *range(8))
    scheduler.submit(large)
    scheduler.execute(scheduler.take(0))
    scheduler.cancel(large)
    run_all(scheduler)
    assert len(ran) == 1
    with pytest.raises(CancelledError):
        large.future.result(0)


def test_failing_row_fails_only_its_job():
    group = doubling_group(max_rows=8, poison={5})
    scheduler = Scheduler(FakeClock(), limit=100)
    jobs = [job(group, i) for i in range(8)]
    for each in jobs:
        scheduler.submit(each)
    run_all(scheduler)
    for i, each in enumerate(jobs):
        if i == 5:
            assert isinstance(each.future.exception(0), ValueError)
        else:
            assert result(each) == [2 * i]


def test_out_of_memory_batch_is_halved():
    def run(feeds):
        if len(feeds["x"]) > 2:
            raise MemoryError
        return {"y": feeds["x"]}

    scheduler = Scheduler(FakeClock(), limit=100)
    large = job(BatchGroup("small", run, max_rows=8, pixels_per_row=1), *range(8))
    scheduler.submit(large)
    run_all(scheduler)
    assert result(large) == list(range(8))


def limited_memory_group(max_rows_in_memory, ran) -> BatchGroup:
    def run(feeds):
        ran.append(len(feeds["x"]))
        if len(feeds["x"]) > max_rows_in_memory:
            raise MemoryError
        return {"y": feeds["x"]}

    return BatchGroup("small", run, max_rows=8, pixels_per_row=1)


def test_out_of_memory_limits_batches_of_group_temporarily():
    clock, ran = FakeClock(), []
    scheduler = Scheduler(clock, limit=100)
    group = limited_memory_group(2, ran)

    def batch_sizes():
        ran.clear()
        scheduler.submit(job(group, *range(8)))
        run_all(scheduler)
        return list(ran)

    assert batch_sizes() == [8, 4, 2, 2, 4, 2, 2]
    assert batch_sizes() == [2, 2, 2, 2]
    clock.now = SMALLER_BATCHES_S - 1
    assert batch_sizes() == [2, 2, 2, 2]
    clock.now = SMALLER_BATCHES_S
    assert batch_sizes()[0] == 8


def test_out_of_memory_affects_only_its_group():
    ran = []
    scheduler = Scheduler(FakeClock(), limit=100)
    scheduler.submit(job(limited_memory_group(1, []), *range(8)))
    run_all(scheduler)
    scheduler.submit(job(doubling_group(ran=ran), *range(4)))
    run_all(scheduler)
    assert [len(rows) for _, rows in ran] == [4]


def test_single_row_out_of_memory_is_an_error():
    scheduler = Scheduler(FakeClock(), limit=100)
    too_large = job(limited_memory_group(0, []), 1)
    scheduler.submit(too_large)
    run_all(scheduler)
    assert isinstance(too_large.future.exception(0), MemoryError)


def test_dead_jobs_are_dropped_while_halving():
    clock, ran = FakeClock(), []

    def run(feeds):
        ran.append(feeds["x"].tolist())
        if len(feeds["x"]) > 1:
            clock.now += 1
            raise MemoryError
        return {"y": feeds["x"]}

    scheduler = Scheduler(clock, limit=100)
    group = BatchGroup("slow", run, max_rows=4, pixels_per_row=1)
    fine, cancelled, late = job(group, 1, 2), job(group, 3), job(group, 4, deadline=2)
    for each in (fine, cancelled, late):
        scheduler.submit(each)
    batch = scheduler.take(0)
    scheduler.cancel(cancelled)
    scheduler.execute(batch)
    # The cancelled row never ran, and the last row's turn came after its deadline.
    assert ran == [[1, 2, 4], [1], [2, 4], [2]]
    assert result_or_error(fine) == [1, 2]
    assert result_or_error(cancelled) is CancelledError
    assert result_or_error(late) is DeadlineExceeded
    assert scheduler.pixels == 0


def result_or_error(job):
    error = job.future.exception(0) if not job.future.cancelled() else CancelledError()
    return type(error) if error else job.future.result(0)["y"].tolist()


def test_base_exception_fails_only_its_job():
    def leave(feeds):
        raise SystemExit

    scheduler = Scheduler(FakeClock(), limit=100)
    threads = Workers(scheduler, 1)
    threads.start()
    left = job(BatchGroup("leaves", leave, max_rows=2, pixels_per_row=1), 1)
    scheduler.submit(left)
    assert isinstance(left.future.exception(10), SystemExit)
    healthy = job(doubling_group(), 4)
    scheduler.submit(healthy)
    assert healthy.future.result(10)["y"].tolist() == [8]
    scheduler.drain().result(10)
    threads.join(10)


def test_failing_observer_does_not_affect_jobs():
    class Broken:
        def fail(self, *_):
            raise RuntimeError

        queued = waited = ran = produced = fail

    scheduler = Scheduler(FakeClock(), 100, Broken())
    submitted = job(doubling_group(), 1)
    scheduler.submit(submitted)
    run_all(scheduler)
    assert result(submitted) == [2]


def group_with_slots(key, slots) -> BatchGroup:
    return BatchGroup(key, lambda feeds: {"y": feeds["x"] * 2}, 1, 1, slots=slots)


def test_group_that_needs_all_slots_is_not_passed_over():
    scheduler = Scheduler(FakeClock(), limit=100, slots=2)
    narrow, wide = group_with_slots("narrow", 1), group_with_slots("wide", 2)
    scheduler.submit(job(narrow, 1, 2, 3))
    scheduler.submit(job(wide, 4))
    first = scheduler.take(0)
    assert first.group.key == "narrow"
    assert scheduler.take(0) is None  # A slot is free, but the group `wide` is next.
    scheduler.execute(first)
    second = scheduler.take(0)
    assert second.group.key == "wide"
    assert scheduler.take(0) is None
    scheduler.execute(second)
    assert {scheduler.take(0).group.key, scheduler.take(0).group.key} == {"narrow"}


@pytest.mark.parametrize(
    ("waiting", "sizes"), [([8], [4, 4]), ([1, 1, 1], [2, 1]), ([1], [1]), ([40], [16, 16, 4])]
)
def test_waiting_rows_are_divided_among_possible_batches(waiting, sizes):
    scheduler = Scheduler(FakeClock(), limit=100, slots=2)
    group = doubling_group(max_rows=16)
    for rows in waiting:
        scheduler.submit(job(group, *range(rows)))
    taken = [scheduler.take(0) for _ in range(2)]
    for batch in filter(None, taken):
        scheduler.execute(batch)
    taken.append(scheduler.take(0))
    assert [batch.rows for batch in taken if batch] == sizes


def test_slots_are_left_to_other_waiting_groups():
    scheduler = Scheduler(FakeClock(), limit=100, slots=2)
    for key in ("a", "b"):
        scheduler.submit(job(doubling_group(key, max_rows=8), *range(8)))
    assert [scheduler.take(0).rows for _ in range(2)] == [8, 8]


def test_batch_runs_alone_only_without_other_work():
    ran = []

    def run(kind):
        return lambda feeds: ran.append((kind, len(feeds["x"]))) or {"y": feeds["x"]}

    group = BatchGroup("group", run("with others"), 1, 1, run_alone=run("alone"))
    scheduler = Scheduler(FakeClock(), limit=100, slots=2)
    scheduler.submit(job(group, 1))
    run_all(scheduler)
    assert ran.pop() == ("alone", 1)
    scheduler.submit(job(group, 1, 2, 3))
    first, second = scheduler.take(0), scheduler.take(0)
    scheduler.execute(first)
    third = scheduler.take(0)  # The last waiting row, while the second is still running.
    scheduler.execute(second)
    scheduler.execute(third)
    assert ran == [("with others", 1)] * 3


def test_slots_of_a_group_are_capped():
    scheduler = Scheduler(FakeClock(), limit=100, slots=2)
    greedy = job(group_with_slots("greedy", 16), 1)
    scheduler.submit(greedy)
    run_all(scheduler)
    assert result(greedy) == [2]


def test_next_group_starts_when_the_awaited_one_is_cancelled():
    scheduler = Scheduler(FakeClock(), limit=100, slots=2)
    threads = Workers(scheduler, 2)
    started, end = threading.Event(), threading.Event()

    def hang(feeds):
        started.set()
        end.wait(30)
        return {"y": feeds["x"]}

    hung = job(BatchGroup("hangs", hang, 1, 1), 1)
    scheduler.submit(hung)
    threads.start()
    assert started.wait(10)
    wide, narrow = job(group_with_slots("wide", 2), 1), job(group_with_slots("narrow", 1), 2)
    scheduler.submit(wide)
    scheduler.submit(narrow)
    scheduler.cancel(wide)
    assert narrow.future.result(10)["y"].tolist() == [4]
    end.set()
    scheduler.drain().result(10)
    threads.join(10)


def test_longest_run_returns_seconds_and_label():
    clock = FakeClock()
    scheduler = Scheduler(clock, limit=100)
    assert scheduler.longest_run() == (0, "")
    runs = []

    def look(feeds):
        clock.now += 7
        runs.append(scheduler.longest_run())
        return {"y": feeds["x"]}

    scheduler.submit(job(BatchGroup("slow", look, 1, 1, label="dcgan"), 1))
    run_all(scheduler)
    assert runs == [(7, "dcgan")]
    assert scheduler.longest_run() == (0, "")


def test_missing_output_row_is_an_error():
    group = BatchGroup("short", lambda feeds: {"y": feeds["x"][1:]}, max_rows=4, pixels_per_row=1)
    scheduler = Scheduler(FakeClock(), limit=100)
    jobs = [job(group, 1), job(group, 2)]
    for each in jobs:
        scheduler.submit(each)
    run_all(scheduler)
    for each in jobs:
        assert isinstance(each.future.exception(0), RowCountMismatch)


def test_drain_refuses_new_and_finishes_accepted_jobs():
    scheduler = Scheduler(FakeClock(), limit=100)
    accepted = job(doubling_group(), 1)
    scheduler.submit(accepted)
    drained = scheduler.drain()
    with pytest.raises(Draining):
        scheduler.submit(job(doubling_group(), 2))
    assert not drained.done()
    run_all(scheduler)
    assert drained.done()
    assert result(accepted) == [2]


def test_cancelled_jobs_free_the_queue_at_once():
    scheduler = Scheduler(FakeClock(), limit=10)
    jobs = [job(doubling_group(), i) for i in range(10)]
    for each in jobs:
        scheduler.submit(each)
    for each in jobs:
        scheduler.cancel(each)
    assert scheduler.pixels == 0
    assert scheduler.take(0) is None
    scheduler.submit(job(doubling_group(), 1))


def test_rows_in_flight_count_after_cancel():
    scheduler = Scheduler(FakeClock(), limit=10)
    large = job(doubling_group(), *range(8))
    scheduler.submit(large)
    batch = scheduler.take(0)
    scheduler.cancel(large)
    drained = scheduler.drain()
    assert large.future.done()
    assert scheduler.pixels == 8
    assert not drained.done()
    scheduler.execute(batch)
    assert scheduler.pixels == 0
    assert drained.done()


def test_held_job_counts_until_released():
    scheduler = Scheduler(FakeClock(), limit=1)
    held = InferenceJob(doubling_group(), {"x": np.array([1])}, held=True)
    scheduler.submit(held)
    run_all(scheduler)
    assert result(held) == [2]
    with pytest.raises(QueueFull):
        scheduler.submit(job(doubling_group(), 2))
    drained = scheduler.drain()
    assert not drained.done()
    scheduler.release(held)
    assert scheduler.pixels == 0
    assert drained.done()


def test_job_released_early_counts_until_it_ends():
    scheduler = Scheduler(FakeClock(), limit=1)
    held = InferenceJob(doubling_group(), {"x": np.array([1])}, held=True)
    scheduler.submit(held)
    scheduler.release(held)
    assert scheduler.pixels == 1
    run_all(scheduler)
    assert scheduler.pixels == 0


def test_incompatible_parts_are_an_error_of_the_job():
    runs = []

    def run(feeds):
        runs.append(1)
        return {"y": np.zeros((len(feeds["x"]), len(runs)))}

    scheduler = Scheduler(FakeClock(), limit=100)
    threads = Workers(scheduler, 1)
    threads.start()
    crooked = job(BatchGroup("crooked", run, max_rows=2, pixels_per_row=1), 1, 2, 3)
    scheduler.submit(crooked)
    assert isinstance(crooked.future.exception(10), ValueError)
    healthy = job(doubling_group(), 4)
    scheduler.submit(healthy)
    assert healthy.future.result(10)["y"].tolist() == [8]
    scheduler.drain().result(10)
    threads.join(10)


def test_retry_after_considers_parallel_workers():
    clock = FakeClock()
    scheduler = Scheduler(clock, limit=80)

    def run(feeds):
        clock.now += 2.0
        return {"y": feeds["x"]}

    group = BatchGroup("slow", run, max_rows=4, pixels_per_row=10)
    for _ in range(2):
        scheduler.submit(job(group, 1, 2, 3, 4))
    batches = [scheduler.take(0), scheduler.take(0)]  # Two workers, 40 pixels in 2 s each.
    scheduler.execute(batches[0])
    scheduler.submit(job(group, 1, 2, 3, 4))
    with pytest.raises(QueueFull) as refused:
        scheduler.submit(job(group, 5, 6, 7, 8))
    assert refused.value.retry_after == pytest.approx(1.0)


def test_refuses_inputs_of_unequal_length():
    with pytest.raises(ValueError, match="same number of rows"):
        InferenceJob(doubling_group(), {"x": np.zeros(2), "y": np.zeros(3)})


class Lingering:
    """A lingering scheduler whose last batch had `rows` rows and ran for `seconds`."""

    def __init__(self, seconds: float = 1.0, rows: int = 4) -> None:
        self.clock = FakeClock()
        self.scheduler = Scheduler(self.clock, limit=100, linger_s=0.002)
        self.group = BatchGroup("group", self.run, max_rows=8, pixels_per_row=1)
        self.seconds = seconds
        self.submit(*range(rows))
        self.scheduler.execute(self.scheduler.take(timeout=0))

    def run(self, feeds):
        self.clock.now += self.seconds
        return {"y": feeds["x"]}

    def submit(self, *rows):
        self.scheduler.submit(job(self.group, *rows))

    def taken(self) -> int | None:
        batch = self.scheduler.take(timeout=0)
        return None if batch is None else batch.rows


def test_lingers_for_the_rows_of_the_last_batch():
    lingering = Lingering()
    lingering.submit(1)
    assert lingering.taken() is None
    lingering.submit(2, 3)
    assert lingering.taken() is None
    lingering.submit(4)
    assert lingering.taken() == 4


def test_lingers_at_most_linger_s_after_the_first_job():
    lingering = Lingering()
    lingering.submit(1)
    lingering.clock.now += 0.0015
    lingering.submit(2)
    assert lingering.taken() is None
    lingering.clock.now += 0.0006
    assert lingering.taken() == 2


def test_lingers_at_most_half_the_last_batch_duration():
    lingering = Lingering(seconds=0.001)
    lingering.submit(1)
    assert lingering.taken() is None
    lingering.clock.now += 0.0006
    assert lingering.taken() == 1


def test_single_client_does_not_linger():
    lingering = Lingering(rows=1)
    lingering.submit(1)
    assert lingering.taken() == 1


def test_does_not_linger_while_another_group_waits():
    lingering = Lingering()
    lingering.submit(1)
    lingering.scheduler.submit(job(doubling_group("other"), 5))
    assert lingering.taken() == 1
    assert lingering.taken() == 1


def test_drain_does_not_linger():
    lingering = Lingering()
    lingering.submit(1)
    lingering.scheduler.drain()
    assert lingering.taken() == 1


def test_jobs_submitted_without_waking_a_worker_share_a_batch():
    sizes, done = [], threading.Event()

    def run(feeds):
        sizes.append(len(feeds["x"]))
        return {"y": feeds["x"]}

    scheduler = Scheduler(time.monotonic, limit=100, batch_returned=done.set)
    workers = Workers(scheduler, 1)
    workers.start()
    group = BatchGroup("group", run, max_rows=8, pixels_per_row=1)
    jobs = [job(group, 1), job(group, 2), job(group, 3)]
    for each in jobs:
        scheduler.submit(each, wake=False)
    scheduler.wake()
    assert done.wait(60)
    assert sum(sizes) == 3
    assert [result(each) for each in jobs] == [[1], [2], [3]]
    scheduler.drain()
    workers.join(60)


def test_futures_are_resolved_when_batch_returned_is_called():
    jobs = [job(doubling_group(), number) for number in range(3)]
    resolved = []
    scheduler = Scheduler(
        FakeClock(), 100, batch_returned=lambda: resolved.append([j.future.done() for j in jobs])
    )
    for each in jobs:
        scheduler.submit(each)
    run_all(scheduler)
    assert resolved == [[True, True, True]]


@pytest.mark.parametrize(("seconds", "sizes"), [(0.0001, [8]), (0.01, [4, 4])])
def test_rows_that_run_in_a_short_time_are_not_divided(seconds, sizes):
    clock = FakeClock()

    def run(feeds):
        clock.now += seconds * len(feeds["x"])
        return {"y": feeds["x"]}

    scheduler = Scheduler(clock, limit=100, slots=2, divide_s=0.004)
    group = BatchGroup("group", run, max_rows=16, pixels_per_row=1)
    scheduler.submit(job(group, 1))
    run_all(scheduler)
    scheduler.submit(job(group, *range(8)))
    taken = [scheduler.take(0) for _ in range(2)]
    assert [batch.rows for batch in taken if batch] == sizes


class TestTakeShort:
    def scheduler(self, seconds):
        """Return a scheduler whose last batch took `seconds`, with two waiting rows."""
        clock = FakeClock()

        def run(feeds):
            clock.now += seconds
            return {"y": feeds["x"]}

        scheduler = Scheduler(clock, limit=100, slots=1, linger_s=0.002)
        self.group = BatchGroup("group", run, max_rows=8, pixels_per_row=1)
        scheduler.submit(job(self.group, 1, 2, 3))
        scheduler.execute(scheduler.take(0))
        scheduler.submit(job(self.group, 4, 5))
        return scheduler

    def test_returns_a_short_batch_without_lingering(self):
        scheduler = self.scheduler(0.0001)
        batch = scheduler.take_short(lambda speed: speed.shortest <= 0.001)
        assert batch.rows == 2

    def test_leaves_a_long_batch(self):
        scheduler = self.scheduler(0.1)
        assert scheduler.take_short(lambda speed: speed.shortest <= 0.001) is None
        scheduler.drain()
        assert scheduler.take(0).rows == 2

    def test_forgets_a_single_short_batch_slowly(self):
        scheduler = self.scheduler(0.0001)
        run_all(scheduler)
        scheduler.submit(job(self.group, 6))
        speeds = []
        scheduler.take_short(lambda speed: speeds.append(speed) or True)
        assert speeds[0].shortest == pytest.approx(0.0001)

    def test_leaves_the_first_batch_of_a_group(self):
        scheduler = Scheduler(FakeClock(), limit=100)
        assert scheduler.take_short(lambda speed: speed.shortest < 1) is None
        scheduler.submit(job(doubling_group(), 1))
        assert scheduler.take_short(lambda speed: speed.shortest < 1) is None

    def test_leaves_a_long_batch_that_follows_a_late_job(self):
        clock = FakeClock()
        scheduler = Scheduler(clock, limit=100)
        short = doubling_group("short")
        scheduler.submit(job(short, 1))
        run_all(scheduler)
        scheduler.submit(job(short, 2, deadline=1.0))
        scheduler.submit(job(doubling_group("unknown"), 3))
        clock.now = 2.0
        assert scheduler.take_short(lambda speed: speed.shortest <= 0.001) is None
        assert scheduler.take(0).rows == 1

    def test_occupies_slots(self):
        scheduler = self.scheduler(0.0001)
        batch = scheduler.take_short(lambda _: True)
        scheduler.submit(job(self.group, 6))
        assert scheduler.take_short(lambda _: True) is None
        scheduler.execute(batch)
        assert scheduler.take_short(lambda _: True).rows == 1

    def test_ends_a_late_job(self):
        clock = FakeClock()
        scheduler = Scheduler(clock, limit=100)
        late = job(doubling_group(), 1, deadline=1.0)
        scheduler.submit(late)
        clock.now = 2.0
        assert scheduler.take_short(lambda _: True) is None
        with pytest.raises(DeadlineExceeded):
            late.future.result(0)


def test_longest_run_is_known_while_another_process_holds_the_bound():
    reserving, continues = threading.Event(), threading.Event()

    class Bound(LocalPixelBound):
        def reserve(self, pixels, *, low=False):
            reserving.set()
            assert continues.wait(60)
            return super().reserve(pixels, low=low)

    scheduler = Scheduler(FakeClock(), Bound(100))
    submitting = threading.Thread(target=scheduler.submit, args=[job(doubling_group(), 1)])
    submitting.start()
    asking = threading.Thread(target=scheduler.longest_run, daemon=True)
    try:
        assert reserving.wait(60)
        asking.start()
        asking.join(60)
        assert not asking.is_alive()
    finally:
        continues.set()
        submitting.join()


class LateClock(FakeClock):
    """A clock on which a second passes after each reading, as if the thread were preempted."""

    late = False

    def __call__(self) -> float:
        now = self.now
        if self.late:
            self.now += 1.0
        return now


def test_take_returns_if_linger_time_ends_between_clock_readings():
    clock = LateClock()
    scheduler = Scheduler(clock, limit=100, linger_s=0.002)

    def run(feeds):
        clock.now += 1.0
        return {"y": feeds["x"]}

    group = BatchGroup("group", run, 8, 1)
    scheduler.submit(job(group, 1, 2))
    scheduler.execute(scheduler.take(timeout=0))
    scheduler.submit(job(group, 3))
    clock.late = True
    taken = []
    thread = threading.Thread(target=lambda: taken.append(scheduler.take()), daemon=True)
    thread.start()
    thread.join(10)
    assert [batch.rows for batch in taken] == [1]


def test_new_group_ends_lingering():
    passed = [0.0]
    scheduler = Scheduler(lambda: time.monotonic() + passed[0], limit=100, linger_s=5.0)
    started = {"first": threading.Event(), "second": threading.Event()}
    release = threading.Event()

    def group(key):
        def run(feeds):
            if len(feeds["x"]) > 1:
                passed[0] += 20.0
            else:
                started[key].set()
                release.wait(20)
            return {"y": feeds["x"]}

        return BatchGroup(key, run, 8, 1)

    groups = {key: group(key) for key in started}
    scheduler.submit(job(groups["first"], 1, 2))
    scheduler.execute(scheduler.take(timeout=0))
    scheduler.slots = 2
    workers = Workers(scheduler, 2)
    workers.start()
    scheduler.submit(job(groups["first"], 3))
    assert not started["first"].wait(0.3)
    scheduler.submit(job(groups["second"], 4))
    # Long before the end of the linger time.
    assert started["first"].wait(2)
    assert started["second"].wait(2)
    release.set()
    scheduler.drain().result(timeout=10)


def test_worker_wakes_after_lingering():
    scheduler = Scheduler(time.monotonic, limit=100, linger_s=0.2)
    group = BatchGroup("group", lambda feeds: time.sleep(0.4) or {"y": feeds["x"]}, 8, 1)
    first, second = job(group, 1, 2), job(group, 3)
    workers = Workers(scheduler, 1)
    workers.start()
    scheduler.submit(first)
    first.future.result(timeout=10)
    scheduler.submit(second)
    assert second.future.result(timeout=10)["y"].tolist() == [3]
    assert second.times.started - second.times.submitted >= 0.19
    scheduler.drain().result(timeout=10)


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=40),
    groups=st.integers(1, 3),
    workers=st.integers(1, 4),
)
@settings(max_examples=25, deadline=None)
def test_concurrent_jobs_get_their_own_rows(sizes, groups, workers):
    scheduler = Scheduler(FakeClock(), limit=10_000)
    kinds = [doubling_group(key) for key in range(groups)]
    jobs = [job(kinds[i % groups], *range(100 * i, 100 * i + size)) for i, size in enumerate(sizes)]
    threads = Workers(scheduler, workers)
    threads.start()
    submitters = [
        threading.Thread(target=lambda part=part: [scheduler.submit(each) for each in part])
        for part in (jobs[::2], jobs[1::2])
    ]
    for thread in submitters:
        thread.start()
    for thread in submitters:
        thread.join()
    assert not wait([each.future for each in jobs], timeout=30).not_done
    scheduler.drain().result(timeout=30)
    threads.join(timeout=30)
    for i, (each, size) in enumerate(zip(jobs, sizes, strict=True)):
        assert result(each) == [2 * (100 * i + row) for row in range(size)]


class SchedulerMachine(RuleBasedStateMachine):
    """Checks the invariants for random sequences of submit, cancel, take, run and wait.

    Batches are taken and run at different times, as by several workers; some rows raise, and the
    available memory changes.
    """

    LIMIT = 30
    SLOTS = 3
    GROUPS = 3
    PRIORITIES = (Priority.NORMAL,)
    # Batches of other levels between two of a level.
    PASSED: ClassVar = {Priority.HIGH: 2, Priority.NORMAL: 5, Priority.LOW: 16}

    def __init__(self):
        super().__init__()
        self.clock = FakeClock()
        self.scheduler = Scheduler(self.clock, self.LIMIT, slots=self.SLOTS)
        self.ran: list[tuple[int, float]] = []
        self.poison: set[int] = set()
        self.memory = 3
        # The group with key k takes k + 1 slots: the last one takes all.
        self.groups = [
            BatchGroup(key, self.run_rows, max_rows=3, pixels_per_row=key + 1, slots=key + 1)
            for key in range(self.GROUPS)
        ]
        self.jobs: list[InferenceJob] = []
        self.ends: dict[int, int] = {}
        self.cancelled_at: dict[int, int] = {}
        self.held: set[int] = set()
        self.taken: list[Batch] = []
        # Rows in the order in which they were assigned, and the number of assigned rows per job.
        self.order: list[int] = []
        self.assigned_counts: dict[int, int] = {}
        # Batches that others led while jobs of a priority and a group were waiting.
        queues = [(level, group) for level in self.PRIORITIES for group in range(self.GROUPS)]
        self.waited = dict.fromkeys(queues, 0)
        self.draining = False

    def run_rows(self, feeds):
        rows = feeds["x"].tolist()
        if set(rows) & self.poison:
            self.clock.now += 1
            raise ValueError("poisoned")
        if len(rows) > max(self.memory, 1):
            raise MemoryError
        self.ran += [(row, self.clock.now) for row in rows]
        return {"y": feeds["x"] * 2}

    @precondition(lambda self: not self.draining)
    @rule(
        group=st.integers(0, GROUPS - 1),
        rows=st.integers(1, 7),
        life=st.integers(1, 9),
        bad=st.booleans(),
        held=st.booleans(),
        priority=st.sampled_from(Priority),
    )
    def submit(self, group, rows, life, bad, held, priority):
        number = len(self.jobs)
        values = np.array([100 * number + row for row in range(rows)])
        new = InferenceJob(
            self.groups[group],
            {"x": values},
            self.clock.now + life,
            priority=priority if priority in self.PRIORITIES else Priority.NORMAL,
            held=held,
        )
        before, low = self.scheduler.pixels, self.low_pixels()
        try:
            self.scheduler.submit(new)
        except (QueueFull, JobTooLarge):
            exceeds_share = low and low + new.pixels > self.LIMIT // 2
            assert before + new.pixels > self.LIMIT or (
                new.priority is Priority.LOW and exceeds_share
            )
            return
        if bad:
            self.poison.add(int(values[-1]))
        if held:
            self.held.add(number)
        self.jobs.append(new)
        self.ends[number] = self.assigned_counts[number] = 0
        new.future.add_done_callback(lambda _: self.count_end(number))

    def count_end(self, number):
        self.ends[number] += 1

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def cancel(self, data):
        number = data.draw(st.integers(0, len(self.jobs) - 1))
        self.cancelled_at.setdefault(number, len(self.ran))
        self.scheduler.cancel(self.jobs[number])

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def release(self, data):
        number = data.draw(st.integers(0, len(self.jobs) - 1))
        self.held.discard(number)
        self.scheduler.release(self.jobs[number])

    def counted(self) -> list[InferenceJob]:
        """The jobs whose pixels count."""
        with_a_worker = {part.job for batch in self.taken for part in batch.parts}
        return [
            each
            for number, each in enumerate(self.jobs)
            if not each.future.done() or number in self.held or each in with_a_worker
        ]

    def low_pixels(self) -> int:
        return sum(each.pixels for each in self.counted() if each.priority is Priority.LOW)

    def has_work(self, level: Priority, group: int) -> bool:
        return any(
            (each.priority, each.group.key) == (level, group)
            and not each.future.done()
            and number not in self.cancelled_at
            and self.clock.now < each.deadline
            and self.assigned_counts[number] < each.rows
            for number, each in enumerate(self.jobs)
        )

    @rule()
    def take(self):
        waiting = [queue for queue in self.waited if self.has_work(*queue)]
        batch = self.scheduler.take(timeout=0)
        if batch is None:
            # A group that fits into the free slots would have been returned.
            assert not waiting or self.taken
            return
        assert batch.rows <= 3
        self.taken.append(batch)
        for part in batch.parts:
            rows = part.feeds("x").tolist()
            self.order += rows
            self.assigned_counts[rows[0] // 100] += len(rows)
        leads = batch.parts[0].job.priority, batch.group.key
        for queue in self.waited:
            passed_by = queue in waiting and queue != leads
            self.waited[queue] = self.waited[queue] + 1 if passed_by else 0

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def run(self, data):
        self.scheduler.execute(self.taken.pop(data.draw(st.integers(0, len(self.taken) - 1))))

    @precondition(lambda self: self.jobs)
    @rule(batches=st.integers(1, 6))
    def take_and_run(self, batches):
        for _ in range(batches):
            before = len(self.taken)
            self.take()
            if len(self.taken) > before:
                self.scheduler.execute(self.taken.pop())

    @rule(seconds=st.integers(1, 5))
    def pass_time(self, seconds):
        self.clock.now += seconds

    @rule(rows=st.integers(0, 3))
    def change_the_memory(self, rows):
        self.memory = rows

    @rule()
    def drain(self):
        self.scheduler.drain()
        self.draining = True

    @invariant()
    def the_bound_holds(self):
        assert 0 <= self.scheduler.pixels <= self.LIMIT

    @invariant()
    def a_place_is_free_when_the_work_has_ended_and_not_before(self):
        assert self.scheduler.pixels == sum(each.pixels for each in self.counted())

    @invariant()
    def the_slots_hold(self):
        assert sum(batch.group.slots for batch in self.taken) <= self.SLOTS

    @invariant()
    def no_group_starves(self):
        for (level, _), count in self.waited.items():
            # Of the batches that others lead, each group of the level leads one between two that
            # other levels lead.
            others = self.PASSED[level] if len(self.PRIORITIES) > 1 else 0
            assert count < self.GROUPS * (others + 1)

    @invariant()
    def no_job_ends_twice(self):
        assert all(count <= 1 for count in self.ends.values())

    @invariant()
    def rows_come_back_to_their_job(self):
        for each in self.jobs:
            if each.future.done() and not each.future.cancelled() and not each.future.exception():
                assert result(each) == (each.feeds["x"] * 2).tolist()

    @invariant()
    def nothing_ran_late_or_cancelled_or_twice(self):
        for position, (row, when) in enumerate(self.ran):
            owner = row // 100
            assert when < self.jobs[owner].deadline
            assert position < self.cancelled_at.get(owner, len(self.ran))
        assert len({row for row, _ in self.ran}) == len(self.ran)

    @invariant()
    def first_in_is_first_out(self):
        for queue in self.waited:
            rows = [
                row
                for row in self.order
                if (self.jobs[row // 100].priority, self.jobs[row // 100].group.key) == queue
            ]
            assert rows == sorted(rows)

    @invariant()
    def a_healthy_job_is_not_failed_by_another(self):
        for each in self.jobs:
            if each.future.done() and not each.future.cancelled():
                error = each.future.exception()
                assert not isinstance(error, MemoryError)
                if isinstance(error, ValueError):
                    assert set(each.feeds["x"].tolist()) & self.poison

    def teardown(self):
        drained = self.scheduler.drain()
        for each in self.jobs:
            self.scheduler.release(each)
        for batch in self.taken:
            self.scheduler.execute(batch)
        run_all(self.scheduler)
        assert drained.done()
        assert self.scheduler.pixels == 0
        assert all(count == 1 for count in self.ends.values())


TestInvariants = SchedulerMachine.TestCase
TestInvariants.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)


class PriorityMachine(SchedulerMachine):
    """Checks the same invariants for jobs of all priorities."""

    LIMIT = 60
    PRIORITIES = tuple(Priority)

    @rule(priority=st.sampled_from(Priority), count=st.integers(1, 20))
    def stay_busy(self, priority, count):
        """Keep one level busy for several batches, as a client that sends again and again."""
        for _ in range(count):
            if not self.draining:
                self.submit(0, 1, 9, bad=False, held=False, priority=priority)
            self.take_and_run(1)

    @invariant()
    def low_priority_leaves_half_of_the_queue(self):
        counted = [each for each in self.counted() if each.priority is Priority.LOW]
        assert len(counted) == 1 or self.low_pixels() <= self.LIMIT // 2


TestPriorities = PriorityMachine.TestCase
TestPriorities.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
