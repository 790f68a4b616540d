import threading
import time
from concurrent.futures import CancelledError, wait

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.runtime.scheduling.batches import Batch, BatchGroup, InferenceJob
from service.runtime.scheduling.scheduler import (
    SMALLER_BATCHES_S,
    DeadlineExceeded,
    Draining,
    JobTooLarge,
    QueueFull,
    RowCountMismatch,
    Scheduler,
)
from service.runtime.scheduling.workers import Workers


class FakeClock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def doubling_lane(key="lane", max_rows=4, pixels_per_row=1, poison=(), ran=None) -> BatchGroup:
    """Outputs are twice the inputs; a batch that holds a row of `poison` raises."""

    def run(feeds):
        x = feeds["x"]
        if ran is not None:
            ran.append((key, x.tolist()))
        if set(x.tolist()) & set(poison):
            raise ValueError("poisoned")
        return {"y": x * 2}

    return BatchGroup(key, run, max_rows, pixels_per_row)


def job(lane, *rows, deadline=float("inf")) -> InferenceJob:
    return InferenceJob(lane, {"x": np.array(rows)}, deadline)


def run_all(scheduler) -> None:
    while (batch := scheduler.take(timeout=0)) is not None:
        scheduler.execute(batch)


def result(job) -> list:
    return job.future.result(timeout=0)["y"].tolist()


def test_jobs_of_one_lane_share_a_batch_and_get_their_own_rows():
    ran = []
    lane = doubling_lane(ran=ran)
    scheduler = Scheduler(FakeClock(), bound=100)
    jobs = [job(lane, 1), job(lane, 2, 3), job(lane, 4)]
    for each in jobs:
        scheduler.submit(each)
    run_all(scheduler)
    assert ran == [("lane", [1, 2, 3, 4])]
    assert [result(each) for each in jobs] == [[2], [4, 6], [8]]


def test_a_job_larger_than_a_batch_is_cut_and_put_together_again():
    ran = []
    scheduler = Scheduler(FakeClock(), bound=100)
    large = job(doubling_lane(ran=ran), *range(10))
    scheduler.submit(large)
    run_all(scheduler)
    assert [len(rows) for _, rows in ran] == [4, 4, 2]
    assert result(large) == [2 * i for i in range(10)]


def test_lanes_take_turns():
    ran = []
    scheduler = Scheduler(FakeClock(), bound=100)
    scheduler.submit(job(doubling_lane("a", ran=ran), *range(12)))
    scheduler.submit(job(doubling_lane("b", ran=ran), 1))
    run_all(scheduler)
    assert [key for key, _ in ran] == ["a", "b", "a", "a"]


def test_beyond_the_bound_a_job_is_refused_until_another_has_ended():
    scheduler = Scheduler(FakeClock(), bound=5)
    lane = doubling_lane(pixels_per_row=2)
    scheduler.submit(job(lane, 1, 2))
    with pytest.raises(QueueFull):
        scheduler.submit(job(lane, 3))
    run_all(scheduler)
    scheduler.submit(job(lane, 3))


def test_the_time_to_come_again_follows_the_measured_speed():
    clock = FakeClock()

    def slow(feeds):
        clock.now += 2.0
        return {"y": feeds["x"]}

    lane = BatchGroup("slow", slow, max_rows=4, pixels_per_row=10)
    scheduler = Scheduler(clock, bound=40)
    scheduler.submit(job(lane, 1, 2, 3, 4))
    run_all(scheduler)  # 40 pixels in 2 s.
    scheduler.submit(job(lane, 1, 2, 3, 4))
    with pytest.raises(QueueFull) as refused:
        scheduler.submit(job(lane, 5, 6))
    assert refused.value.retry_after == pytest.approx(1.0)


def test_short_batches_of_few_pixels_say_little_of_the_speed():
    clock = FakeClock()

    def taking(seconds):
        def run(feeds):
            clock.now += seconds
            return {"y": feeds["x"]}

        return run

    pictures = BatchGroup("pictures", taking(1.0), max_rows=4, pixels_per_row=1000)
    styles = BatchGroup("styles", taking(0.001), max_rows=4, pixels_per_row=1)
    scheduler = Scheduler(clock, bound=4000)
    for _ in range(20):
        for lane in (styles, pictures):
            scheduler.submit(job(lane, 1, 2))
            run_all(scheduler)
    scheduler.submit(job(pictures, 1, 2, 3, 4))
    with pytest.raises(QueueFull) as refused:
        scheduler.submit(job(pictures, 5, 6))
    assert refused.value.retry_after == pytest.approx(1.0, rel=0.01)


def test_a_job_that_would_never_fit_is_told_so():
    with pytest.raises(JobTooLarge):
        Scheduler(FakeClock(), bound=5).submit(job(doubling_lane(), *range(6)))


def test_nothing_runs_after_its_deadline():
    ran, clock = [], FakeClock()
    scheduler = Scheduler(clock, bound=100)
    lane = doubling_lane(ran=ran)
    late, early = job(lane, 1, deadline=5), job(lane, 2, deadline=50)
    scheduler.submit(late)
    scheduler.submit(early)
    clock.now = 5
    run_all(scheduler)
    assert ran == [("lane", [2])]
    assert isinstance(late.future.exception(0), DeadlineExceeded)
    assert result(early) == [4]
    assert scheduler.pixels == 0


def test_the_rest_of_a_large_job_is_dropped_at_its_deadline():
    ran, clock = [], FakeClock()
    scheduler = Scheduler(clock, bound=100)
    large = job(doubling_lane(ran=ran), *range(8), deadline=5)
    scheduler.submit(large)
    scheduler.execute(scheduler.take(0))
    clock.now = 6
    assert scheduler.take(0) is None
    assert len(ran) == 1
    assert isinstance(large.future.exception(0), DeadlineExceeded)


def test_a_cancelled_job_does_not_run():
    ran = []
    scheduler = Scheduler(FakeClock(), bound=100)
    cancelled, other = job(doubling_lane(ran=ran), 1), job(doubling_lane(ran=ran), 2)
    scheduler.submit(cancelled)
    scheduler.submit(other)
    scheduler.cancel(cancelled)
    assert scheduler.pixels == 1
    run_all(scheduler)
    assert ran == [("lane", [2])]
    assert cancelled.future.cancelled()
    assert scheduler.pixels == 0


def test_a_job_cancelled_in_the_middle_ends_without_its_rest():
    ran = []
    scheduler = Scheduler(FakeClock(), bound=100)
    large = job(doubling_lane(ran=ran), *range(8))
    scheduler.submit(large)
    scheduler.execute(scheduler.take(0))
    scheduler.cancel(large)
    run_all(scheduler)
    assert len(ran) == 1
    with pytest.raises(CancelledError):
        large.future.result(0)


def test_a_row_that_raises_fails_alone():
    lane = doubling_lane(max_rows=8, poison={5})
    scheduler = Scheduler(FakeClock(), bound=100)
    jobs = [job(lane, i) for i in range(8)]
    for each in jobs:
        scheduler.submit(each)
    run_all(scheduler)
    for i, each in enumerate(jobs):
        if i == 5:
            assert isinstance(each.future.exception(0), ValueError)
        else:
            assert result(each) == [2 * i]


def test_a_batch_too_large_for_the_memory_is_run_in_halves():
    def run(feeds):
        if len(feeds["x"]) > 2:
            raise MemoryError
        return {"y": feeds["x"]}

    scheduler = Scheduler(FakeClock(), bound=100)
    large = job(BatchGroup("small", run, max_rows=8, pixels_per_row=1), *range(8))
    scheduler.submit(large)
    run_all(scheduler)
    assert result(large) == list(range(8))


def small_memory_lane(most_rows, ran) -> BatchGroup:
    def run(feeds):
        ran.append(len(feeds["x"]))
        if len(feeds["x"]) > most_rows:
            raise MemoryError
        return {"y": feeds["x"]}

    return BatchGroup("small", run, max_rows=8, pixels_per_row=1)


def test_a_lane_keeps_to_the_rows_that_the_memory_held_for_a_while():
    clock, ran = FakeClock(), []
    scheduler = Scheduler(clock, bound=100)
    lane = small_memory_lane(2, ran)

    def runs_of_eight_rows():
        ran.clear()
        scheduler.submit(job(lane, *range(8)))
        run_all(scheduler)
        return list(ran)

    assert runs_of_eight_rows() == [8, 4, 2, 2, 4, 2, 2]
    assert runs_of_eight_rows() == [2, 2, 2, 2]
    clock.now = SMALLER_BATCHES_S - 1
    assert runs_of_eight_rows() == [2, 2, 2, 2]
    clock.now = SMALLER_BATCHES_S
    assert runs_of_eight_rows()[0] == 8


def test_one_lane_that_ran_out_of_memory_leaves_the_others_their_batches():
    ran = []
    scheduler = Scheduler(FakeClock(), bound=100)
    scheduler.submit(job(small_memory_lane(1, []), *range(8)))
    run_all(scheduler)
    scheduler.submit(job(doubling_lane(ran=ran), *range(4)))
    run_all(scheduler)
    assert [len(rows) for _, rows in ran] == [4]


def test_a_row_for_which_there_is_no_memory_even_alone_is_told_so():
    scheduler = Scheduler(FakeClock(), bound=100)
    hopeless = job(small_memory_lane(0, []), 1)
    scheduler.submit(hopeless)
    run_all(scheduler)
    assert isinstance(hopeless.future.exception(0), MemoryError)


def test_the_rest_of_a_batch_run_in_halves_is_dropped_when_its_jobs_have_died():
    clock, ran = FakeClock(), []

    def run(feeds):
        ran.append(feeds["x"].tolist())
        if len(feeds["x"]) > 1:
            clock.now += 1
            raise MemoryError
        return {"y": feeds["x"]}

    scheduler = Scheduler(clock, bound=100)
    lane = BatchGroup("slow", run, max_rows=4, pixels_per_row=1)
    fine, cancelled, late = job(lane, 1, 2), job(lane, 3), job(lane, 4, deadline=2)
    for each in (fine, cancelled, late):
        scheduler.submit(each)
    batch = scheduler.take(0)
    scheduler.cancel(cancelled)
    scheduler.execute(batch)
    # The cancelled row never ran, and the last one's turn came after its deadline.
    assert ran == [[1, 2, 4], [1], [2, 4], [2]]
    assert result_or_error(fine) == [1, 2]
    assert result_or_error(cancelled) is CancelledError
    assert result_or_error(late) is DeadlineExceeded
    assert scheduler.pixels == 0


def result_or_error(job):
    error = job.future.exception(0) if not job.future.cancelled() else CancelledError()
    return type(error) if error else job.future.result(0)["y"].tolist()


def test_what_is_no_exception_is_still_only_the_jobs_error_and_the_worker_lives():
    def leave(feeds):
        raise SystemExit

    scheduler = Scheduler(FakeClock(), bound=100)
    threads = Workers(scheduler, 1)
    threads.start()
    left = job(BatchGroup("leaves", leave, max_rows=2, pixels_per_row=1), 1)
    scheduler.submit(left)
    assert isinstance(left.future.exception(10), SystemExit)
    healthy = job(doubling_lane(), 4)
    scheduler.submit(healthy)
    assert healthy.future.result(10)["y"].tolist() == [8]
    scheduler.drain().result(10)
    threads.join(10)


def test_an_observer_that_raises_harms_no_job():
    class Broken:
        def fail(self, *_):
            raise RuntimeError

        queued = waited = ran = made = fail

    scheduler = Scheduler(FakeClock(), 100, Broken())
    submitted = job(doubling_lane(), 1)
    scheduler.submit(submitted)
    run_all(scheduler)
    assert result(submitted) == [2]


def sized_lane(key, slots) -> BatchGroup:
    return BatchGroup(key, lambda feeds: {"y": feeds["x"] * 2}, 1, 1, slots=slots)


def test_a_lane_that_needs_all_slots_is_waited_for_and_not_passed_by():
    scheduler = Scheduler(FakeClock(), bound=100, slots=2)
    narrow, wide = sized_lane("narrow", 1), sized_lane("wide", 2)
    scheduler.submit(job(narrow, 1, 2, 3))
    scheduler.submit(job(wide, 4))
    first = scheduler.take(0)
    assert first.lane.key == "narrow"
    assert scheduler.take(0) is None  # There is room for another narrow one: the turn is wide's.
    scheduler.execute(first)
    second = scheduler.take(0)
    assert second.lane.key == "wide"
    assert scheduler.take(0) is None
    scheduler.execute(second)
    assert {scheduler.take(0).lane.key, scheduler.take(0).lane.key} == {"narrow"}


@pytest.mark.parametrize(
    ("waiting", "sizes"), [([8], [4, 4]), ([1, 1, 1], [2, 1]), ([1], [1]), ([40], [16, 16, 4])]
)
def test_what_waits_is_shared_out_among_the_batches_that_can_begin(waiting, sizes):
    scheduler = Scheduler(FakeClock(), bound=100, slots=2)
    lane = doubling_lane(max_rows=16)
    for rows in waiting:
        scheduler.submit(job(lane, *range(rows)))
    taken = [scheduler.take(0) for _ in range(2)]
    for batch in filter(None, taken):
        scheduler.execute(batch)
    taken.append(scheduler.take(0))
    assert [batch.rows for batch in taken if batch] == sizes


def test_the_slots_that_other_lanes_wait_for_are_left_to_them():
    scheduler = Scheduler(FakeClock(), bound=100, slots=2)
    for key in ("a", "b"):
        scheduler.submit(job(doubling_lane(key, max_rows=8), *range(8)))
    assert [scheduler.take(0).rows for _ in range(2)] == [8, 8]


def test_only_a_batch_that_finds_and_leaves_nothing_else_is_run_alone():
    ran = []

    def run(kind):
        return lambda feeds: ran.append((kind, len(feeds["x"]))) or {"y": feeds["x"]}

    lane = BatchGroup("lane", run("beside others"), 1, 1, run_alone=run("alone"))
    scheduler = Scheduler(FakeClock(), bound=100, slots=2)
    scheduler.submit(job(lane, 1))
    run_all(scheduler)
    assert ran.pop() == ("alone", 1)
    scheduler.submit(job(lane, 1, 2, 3))
    first, second = scheduler.take(0), scheduler.take(0)
    scheduler.execute(first)
    third = scheduler.take(0)  # The last that waits, while the second is still with its worker.
    scheduler.execute(second)
    scheduler.execute(third)
    assert ran == [("beside others", 1)] * 3


def test_a_lane_that_wants_more_slots_than_there_are_gets_them_all():
    scheduler = Scheduler(FakeClock(), bound=100, slots=2)
    greedy = job(sized_lane("greedy", 16), 1)
    scheduler.submit(greedy)
    run_all(scheduler)
    assert result(greedy) == [2]


def test_when_the_lane_that_was_waited_for_is_cancelled_the_next_one_starts():
    scheduler = Scheduler(FakeClock(), bound=100, slots=2)
    threads = Workers(scheduler, 2)
    begun, end = threading.Event(), threading.Event()

    def hang(feeds):
        begun.set()
        end.wait(30)
        return {"y": feeds["x"]}

    hung = job(BatchGroup("hangs", hang, 1, 1), 1)
    scheduler.submit(hung)
    threads.start()
    assert begun.wait(10)
    wide, narrow = job(sized_lane("wide", 2), 1), job(sized_lane("narrow", 1), 2)
    scheduler.submit(wide)
    scheduler.submit(narrow)
    scheduler.cancel(wide)
    assert narrow.future.result(10)["y"].tolist() == [4]
    end.set()
    scheduler.drain().result(10)
    threads.join(10)


def test_the_longest_run_is_the_oldest_that_runs_now():
    clock = FakeClock()
    scheduler = Scheduler(clock, bound=100)
    assert scheduler.longest_run() == (0, "")
    seen = []

    def look(feeds):
        clock.now += 7
        seen.append(scheduler.longest_run())
        return {"y": feeds["x"]}

    scheduler.submit(job(BatchGroup("slow", look, 1, 1, label="dcgan"), 1))
    run_all(scheduler)
    assert seen == [(7, "dcgan")]
    assert scheduler.longest_run() == (0, "")


def test_a_row_too_few_is_an_error_and_not_a_shorter_answer():
    lane = BatchGroup("short", lambda feeds: {"y": feeds["x"][1:]}, max_rows=4, pixels_per_row=1)
    scheduler = Scheduler(FakeClock(), bound=100)
    jobs = [job(lane, 1), job(lane, 2)]
    for each in jobs:
        scheduler.submit(each)
    run_all(scheduler)
    for each in jobs:
        assert isinstance(each.future.exception(0), RowCountMismatch)


def test_a_drain_takes_nothing_in_and_ends_what_was_accepted():
    scheduler = Scheduler(FakeClock(), bound=100)
    accepted = job(doubling_lane(), 1)
    scheduler.submit(accepted)
    drained = scheduler.drain()
    with pytest.raises(Draining):
        scheduler.submit(job(doubling_lane(), 2))
    assert not drained.done()
    run_all(scheduler)
    assert drained.done()
    assert result(accepted) == [2]


def test_cancelled_jobs_make_room_at_once_and_leave_the_queue():
    scheduler = Scheduler(FakeClock(), bound=10)
    jobs = [job(doubling_lane(), i) for i in range(10)]
    for each in jobs:
        scheduler.submit(each)
    for each in jobs:
        scheduler.cancel(each)
    assert scheduler.pixels == 0
    assert scheduler.take(0) is None
    scheduler.submit(job(doubling_lane(), 1))


def test_rows_that_are_with_a_worker_keep_their_place_after_a_cancel():
    scheduler = Scheduler(FakeClock(), bound=10)
    large = job(doubling_lane(), *range(8))
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


def test_a_held_job_keeps_its_place_until_it_is_released():
    scheduler = Scheduler(FakeClock(), bound=1)
    held = InferenceJob(doubling_lane(), {"x": np.array([1])}, held=True)
    scheduler.submit(held)
    run_all(scheduler)
    assert result(held) == [2]
    with pytest.raises(QueueFull):
        scheduler.submit(job(doubling_lane(), 2))
    drained = scheduler.drain()
    assert not drained.done()
    scheduler.release(held)
    assert scheduler.pixels == 0
    assert drained.done()


def test_a_job_released_before_its_end_gives_its_place_back_at_its_end():
    scheduler = Scheduler(FakeClock(), bound=1)
    held = InferenceJob(doubling_lane(), {"x": np.array([1])}, held=True)
    scheduler.submit(held)
    scheduler.release(held)
    assert scheduler.pixels == 1
    run_all(scheduler)
    assert scheduler.pixels == 0


def test_parts_that_do_not_fit_together_are_an_error_and_the_worker_lives():
    runs = []

    def run(feeds):
        runs.append(1)
        return {"y": np.zeros((len(feeds["x"]), len(runs)))}

    scheduler = Scheduler(FakeClock(), bound=100)
    threads = Workers(scheduler, 1)
    threads.start()
    crooked = job(BatchGroup("crooked", run, max_rows=2, pixels_per_row=1), 1, 2, 3)
    scheduler.submit(crooked)
    assert isinstance(crooked.future.exception(10), ValueError)
    healthy = job(doubling_lane(), 4)
    scheduler.submit(healthy)
    assert healthy.future.result(10)["y"].tolist() == [8]
    scheduler.drain().result(10)
    threads.join(10)


def test_the_time_to_come_again_counts_the_workers_that_run():
    clock = FakeClock()
    scheduler = Scheduler(clock, bound=80)

    def run(feeds):
        clock.now += 2.0
        return {"y": feeds["x"]}

    lane = BatchGroup("slow", run, max_rows=4, pixels_per_row=10)
    for _ in range(2):
        scheduler.submit(job(lane, 1, 2, 3, 4))
    batches = [scheduler.take(0), scheduler.take(0)]  # Two workers, 40 pixels in 2 s each.
    scheduler.execute(batches[0])
    scheduler.submit(job(lane, 1, 2, 3, 4))
    with pytest.raises(QueueFull) as refused:
        scheduler.submit(job(lane, 5, 6, 7, 8))
    assert refused.value.retry_after == pytest.approx(1.0)


def test_inputs_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="same number of rows"):
        InferenceJob(doubling_lane(), {"x": np.zeros(2), "y": np.zeros(3)})


class Lingering:
    """A scheduler that waits for more rows, whose last batch had four rows and took a second."""

    def __init__(self, took: float = 1.0, rows: int = 4) -> None:
        self.clock = FakeClock()
        self.scheduler = Scheduler(self.clock, bound=100, linger_s=0.002)
        self.lane = BatchGroup("lane", self.run, max_rows=8, pixels_per_row=1)
        self.took = took
        self.submit(*range(rows))
        self.scheduler.execute(self.scheduler.take(timeout=0))

    def run(self, feeds):
        self.clock.now += self.took
        return {"y": feeds["x"]}

    def submit(self, *rows):
        self.scheduler.submit(job(self.lane, *rows))

    def taken(self) -> int | None:
        batch = self.scheduler.take(timeout=0)
        return None if batch is None else batch.rows


def test_a_lane_waits_for_as_many_rows_as_its_last_batch_had():
    lingering = Lingering()
    lingering.submit(1)
    assert lingering.taken() is None
    lingering.submit(2, 3)
    assert lingering.taken() is None
    lingering.submit(4)
    assert lingering.taken() == 4


def test_a_lane_waits_for_no_longer_than_a_moment_after_its_first_job():
    lingering = Lingering()
    lingering.submit(1)
    lingering.clock.now += 0.0015
    lingering.submit(2)
    assert lingering.taken() is None
    lingering.clock.now += 0.0006
    assert lingering.taken() == 2


def test_a_lane_waits_for_no_longer_than_half_of_what_its_last_batch_took():
    lingering = Lingering(took=0.001)
    lingering.submit(1)
    assert lingering.taken() is None
    lingering.clock.now += 0.0006
    assert lingering.taken() == 1


def test_who_asks_alone_waits_for_nobody():
    lingering = Lingering(rows=1)
    lingering.submit(1)
    assert lingering.taken() == 1


def test_no_lane_waits_for_more_rows_while_another_has_some():
    lingering = Lingering()
    lingering.submit(1)
    lingering.scheduler.submit(job(doubling_lane("other"), 5))
    assert lingering.taken() == 1
    assert lingering.taken() == 1


def test_a_drain_waits_for_no_more_rows():
    lingering = Lingering()
    lingering.submit(1)
    lingering.scheduler.drain()
    assert lingering.taken() == 1


class LateClock(FakeClock):
    """A second goes by after each look, as where the thread that looked is put off."""

    late = False

    def __call__(self) -> float:
        now = self.now
        if self.late:
            self.now += 1.0
        return now


def test_a_moment_that_ends_while_it_is_looked_at_is_not_waited_for_without_end():
    clock = LateClock()
    scheduler = Scheduler(clock, bound=100, linger_s=0.002)

    def run(feeds):
        clock.now += 1.0
        return {"y": feeds["x"]}

    lane = BatchGroup("lane", run, 8, 1)
    scheduler.submit(job(lane, 1, 2))
    scheduler.execute(scheduler.take(timeout=0))
    scheduler.submit(job(lane, 3))
    clock.late = True
    taken = []
    thread = threading.Thread(target=lambda: taken.append(scheduler.take()), daemon=True)
    thread.start()
    thread.join(10)
    assert [batch.rows for batch in taken] == [1]


def test_a_lane_that_comes_while_another_is_given_a_moment_is_run_at_once():
    passed = [0.0]
    scheduler = Scheduler(lambda: time.monotonic() + passed[0], bound=100, linger_s=5.0)
    begun = {"first": threading.Event(), "second": threading.Event()}
    release = threading.Event()

    def lane(key):
        def run(feeds):
            if len(feeds["x"]) > 1:
                passed[0] += 20.0
            else:
                begun[key].set()
                release.wait(20)
            return {"y": feeds["x"]}

        return BatchGroup(key, run, 8, 1)

    lanes = {key: lane(key) for key in begun}
    scheduler.submit(job(lanes["first"], 1, 2))
    scheduler.execute(scheduler.take(timeout=0))
    scheduler.slots = 2
    workers = Workers(scheduler, 2)
    workers.start()
    scheduler.submit(job(lanes["first"], 3))
    assert not begun["first"].wait(0.3)
    scheduler.submit(job(lanes["second"], 4))
    # Long before the moment is over.
    assert begun["first"].wait(2)
    assert begun["second"].wait(2)
    release.set()
    scheduler.drain().result(timeout=10)


def test_a_worker_wakes_when_the_moment_is_over():
    scheduler = Scheduler(time.monotonic, bound=100, linger_s=0.2)
    lane = BatchGroup("lane", lambda feeds: time.sleep(0.4) or {"y": feeds["x"]}, 8, 1)
    first, second = job(lane, 1, 2), job(lane, 3)
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
    lanes=st.integers(1, 3),
    workers=st.integers(1, 4),
)
@settings(max_examples=25, deadline=None)
def test_with_threads_every_job_gets_its_own_rows(sizes, lanes, workers):
    scheduler = Scheduler(FakeClock(), bound=10_000)
    kinds = [doubling_lane(key) for key in range(lanes)]
    jobs = [job(kinds[i % lanes], *range(100 * i, 100 * i + size)) for i, size in enumerate(sizes)]
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
    """Whatever is submitted, cancelled, run and waited for, in whatever order: the invariants.

    Batches are taken and run at different times, as by several workers; some rows raise, and the
    memory holds now more rows and now fewer.
    """

    BOUND = 30
    SLOTS = 3
    LANES = 3

    def __init__(self):
        super().__init__()
        self.clock = FakeClock()
        self.scheduler = Scheduler(self.clock, self.BOUND, slots=self.SLOTS)
        self.ran: list[tuple[int, float]] = []
        self.poison: set[int] = set()
        self.memory = 3
        # The lane of key k takes k + 1 slots: the last one takes them all.
        self.lanes = [
            BatchGroup(key, self.run_rows, max_rows=3, pixels_per_row=key + 1, slots=key + 1)
            for key in range(self.LANES)
        ]
        self.jobs: list[InferenceJob] = []
        self.ends: dict[int, int] = {}
        self.cancelled_at: dict[int, int] = {}
        self.held: set[int] = set()
        self.taken: list[Batch] = []
        # Rows given out in the order in which they were, and the rows of each job among them.
        self.order: list[int] = []
        self.given: dict[int, int] = {}
        # Batches of others that were taken while a lane had something to run.
        self.waited = dict.fromkeys(range(self.LANES), 0)
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
        lane=st.integers(0, LANES - 1),
        rows=st.integers(1, 7),
        life=st.integers(1, 9),
        bad=st.booleans(),
        held=st.booleans(),
    )
    def submit(self, lane, rows, life, bad, held):
        number = len(self.jobs)
        values = np.array([100 * number + row for row in range(rows)])
        new = InferenceJob(self.lanes[lane], {"x": values}, self.clock.now + life, held=held)
        before = self.scheduler.pixels
        try:
            self.scheduler.submit(new)
        except (QueueFull, JobTooLarge):
            assert before + new.pixels > self.BOUND
            return
        if bad:
            self.poison.add(int(values[-1]))
        if held:
            self.held.add(number)
        self.jobs.append(new)
        self.ends[number] = self.given[number] = 0
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

    def has_work(self, lane: int) -> bool:
        return any(
            each.lane.key == lane
            and not each.future.done()
            and number not in self.cancelled_at
            and self.clock.now < each.deadline
            and self.given[number] < each.rows
            for number, each in enumerate(self.jobs)
        )

    @rule()
    def take(self):
        waiting = [lane for lane in range(self.LANES) if self.has_work(lane)]
        batch = self.scheduler.take(timeout=0)
        if batch is None:
            # A lane that takes no more than is free would have been given.
            assert not waiting or self.taken
            return
        assert batch.rows <= 3
        self.taken.append(batch)
        for part in batch.parts:
            rows = part.feeds("x").tolist()
            self.order += rows
            self.given[rows[0] // 100] += len(rows)
        for lane in range(self.LANES):
            passed_by = lane in waiting and lane != batch.lane.key
            self.waited[lane] = self.waited[lane] + 1 if passed_by else 0

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
        assert 0 <= self.scheduler.pixels <= self.BOUND

    @invariant()
    def a_place_is_free_when_the_work_has_ended_and_not_before(self):
        with_a_worker = {part.job for batch in self.taken for part in batch.parts}
        assert self.scheduler.pixels == sum(
            each.pixels
            for number, each in enumerate(self.jobs)
            if not each.future.done() or number in self.held or each in with_a_worker
        )

    @invariant()
    def the_slots_hold(self):
        assert sum(batch.lane.slots for batch in self.taken) <= self.SLOTS

    @invariant()
    def no_lane_is_passed_by_more_often_than_there_are_others(self):
        assert all(count < self.LANES for count in self.waited.values())

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
        for key in range(self.LANES):
            rows = [row for row in self.order if self.jobs[row // 100].lane.key == key]
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
