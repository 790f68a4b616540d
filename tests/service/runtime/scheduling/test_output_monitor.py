import threading

import numpy as np

from service.runtime.scheduling.batches import Batch, BatchGroup, InferenceJob, Part
from service.runtime.scheduling.output_monitor import LOOKS_PER_SECOND, ROWS_PER_LOOK, OutputMonitor


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def pass_by(self) -> None:
        self.now += 1 / LOOKS_PER_SECOND


LANE = BatchGroup(key="lane", run=dict, max_rows=8, pixels_per_row=1, label="a-model")


def batch(*latents, lane=LANE) -> Batch:
    """A batch of jobs of one row each; a list of latents is one job of several rows."""
    parts = []
    for latent in latents:
        z = np.atleast_2d(np.asarray(latent, np.float32))
        parts.append(Part(InferenceJob(lane, {"z": z}), 0, len(z)))
    return Batch(lane, parts)


def pictures(*values) -> dict[str, np.ndarray]:
    """Small pictures of one value each, but for a corner."""
    made = np.stack([np.full((4, 4, 3), value, np.uint8) for value in values])
    made[:, 0, 0, 0] = 1
    return {"pixels": made}


def test_saturated_values_are_counted_wherever_they_are():
    made = np.full((2, 64, 64, 3), 7, np.uint8)
    made[:, :, :, 0] = 255
    made[:, :16, :, 1] = 0
    look = OutputMonitor().look(batch([1], [2]), {"pixels": made})
    assert look.rows == 2
    # 4,096 of 12,288 values: a share to within a few standard errors.
    assert abs(look.saturated / look.values - (1 / 3 + 1 / 12)) < 0.05
    assert look.flat == 0


def test_every_value_of_a_small_picture_is_looked_at():
    look = OutputMonitor().look(batch([1]), pictures(0))
    assert (look.values, look.saturated) == (48, 47)


def test_pictures_of_one_value_are_flat():
    made = np.zeros((3, 8, 8, 1), np.uint8)
    made[1, 2, 2] = 1
    assert OutputMonitor().look(batch([1], [2], [3]), {"pixels": made}).flat == 2


def test_rows_that_are_not_finite_are_counted_in_real_outputs():
    w = np.zeros((4, 6, 10), np.float32)
    w[1, 3, 3], w[2, 0, 0] = np.nan, np.inf
    look = OutputMonitor().look(batch([1], [2], [3], [4]), {"w": w})
    assert (look.rows, look.nonfinite, look.values) == (4, 2, 0)


def test_pictures_of_different_latents_are_compared_also_with_the_last_look():
    clock = Clock()
    samples = OutputMonitor(clock)
    first = samples.look(batch([1], [2]), pictures(10, 61))
    assert np.allclose(first.differences, [51 / 255 * 47 / 48])
    clock.pass_by()
    second = samples.look(batch([3]), pictures(112))
    assert np.allclose(second.differences, [51 / 255 * 47 / 48])


def test_the_same_latent_twice_says_nothing_of_diversity():
    clock = Clock()
    samples = OutputMonitor(clock)
    assert samples.look(batch([1], [1]), pictures(10, 10)).differences == []
    clock.pass_by()
    assert samples.look(batch([1]), pictures(10)).differences == []


def test_of_a_job_one_row_is_looked_at_since_its_neighbours_may_be_near():
    walk = batch([[1], [1.01], [1.02]], [[5]])
    look = OutputMonitor().look(walk, pictures(10, 11, 12, 112))
    assert look.rows == 2
    assert np.allclose(look.differences, [102 / 255 * 47 / 48])


def test_a_lane_is_looked_at_only_so_often_and_only_some_rows_of_it():
    clock = Clock()
    samples = OutputMonitor(clock)
    many = [[i] for i in range(8)]
    assert samples.look(batch(*many), pictures(*range(8))).rows == ROWS_PER_LOOK
    assert samples.look(batch(*many), pictures(*range(8))) is None
    other = BatchGroup(key="other", run=dict, max_rows=8, pixels_per_row=1)
    assert samples.look(batch([1], lane=other), pictures(1)) is not None
    clock.pass_by()
    assert samples.look(batch(*many), pictures(*range(8))) is not None


def test_lanes_of_different_models_are_not_compared():
    samples = OutputMonitor()
    other = BatchGroup(key="other", run=dict, max_rows=8, pixels_per_row=1)
    samples.look(batch([1]), pictures(10))
    assert samples.look(batch([2], lane=other), {"pixels": np.zeros((1, 9, 9, 3), np.uint8)})


def test_what_is_remembered_of_lanes_is_bounded():
    samples = OutputMonitor()
    for i in range(2000):
        lane = BatchGroup(key=i, run=dict, max_rows=8, pixels_per_row=1)
        assert samples.look(batch([1], lane=lane), pictures(1)) is not None
    assert len(samples._lanes) < 300


def test_nobody_waits_for_a_look_of_another_thread():
    samples = OutputMonitor()
    with samples._lock:
        seen = []
        thread = threading.Thread(target=lambda: seen.append(samples.look(batch([1]), pictures(1))))
        thread.start()
        thread.join(10)
        assert seen == [None]


def test_outputs_are_not_changed_and_not_held():
    samples = OutputMonitor()
    outputs = pictures(1, 2)
    before = outputs["pixels"].copy()
    samples.look(batch([1], [2]), outputs)
    assert np.array_equal(outputs["pixels"], before)
    kept = samples._lanes["lane"].last
    assert not any(np.shares_memory(array, outputs["pixels"]) for array in kept)
