import threading

import numpy as np

from service.runtime.scheduling.batches import Batch, BatchGroup, InferenceJob, Part
from service.runtime.scheduling.output_monitor import (
    ROWS_PER_SAMPLE,
    SAMPLES_PER_SECOND,
    OutputMonitor,
)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def advance(self) -> None:
        self.now += 1 / SAMPLES_PER_SECOND


GROUP = BatchGroup(key="group", run=dict, max_rows=8, pixels_per_row=1, label="a-model")


def batch(*latents, group=GROUP) -> Batch:
    """A batch of jobs of one row each; a list of latents is one job of several rows."""
    parts = []
    for latent in latents:
        z = np.atleast_2d(np.asarray(latent, np.float32))
        parts.append(Part(InferenceJob(group, {"z": z}), 0, len(z)))
    return Batch(group, parts)


def images(*values) -> dict[str, np.ndarray]:
    """Small images with a constant value, except for one corner."""
    pixels = np.stack([np.full((4, 4, 3), value, np.uint8) for value in values])
    pixels[:, 0, 0, 0] = 1
    return {"pixels": pixels}


def test_counts_saturated_values():
    pixels = np.full((2, 64, 64, 3), 7, np.uint8)
    pixels[:, :, :, 0] = 255
    pixels[:, :16, :, 1] = 0
    sample = OutputMonitor().sample(batch([1], [2]), {"pixels": pixels})
    assert sample.rows == 2
    # 4,096 of 12,288 values are sampled: within a few standard errors.
    assert abs(sample.saturated / sample.values - (1 / 3 + 1 / 12)) < 0.05
    assert sample.flat == 0


def test_samples_every_value_of_a_small_image():
    sample = OutputMonitor().sample(batch([1]), images(0))
    assert (sample.values, sample.saturated) == (48, 47)


def test_constant_images_are_flat():
    pixels = np.zeros((3, 8, 8, 1), np.uint8)
    pixels[1, 2, 2] = 1
    assert OutputMonitor().sample(batch([1], [2], [3]), {"pixels": pixels}).flat == 2


def test_counts_non_finite_rows():
    w = np.zeros((4, 6, 10), np.float32)
    w[1, 3, 3], w[2, 0, 0] = np.nan, np.inf
    sample = OutputMonitor().sample(batch([1], [2], [3], [4]), {"w": w})
    assert (sample.rows, sample.nonfinite, sample.values) == (4, 2, 0)


def test_compares_different_latents_across_samples():
    clock = Clock()
    monitor = OutputMonitor(clock)
    first = monitor.sample(batch([1], [2]), images(10, 61))
    assert np.allclose(first.differences, [51 / 255 * 47 / 48])
    clock.advance()
    second = monitor.sample(batch([3]), images(112))
    assert np.allclose(second.differences, [51 / 255 * 47 / 48])


def test_equal_latents_are_not_compared():
    clock = Clock()
    monitor = OutputMonitor(clock)
    assert monitor.sample(batch([1], [1]), images(10, 10)).differences == []
    clock.advance()
    assert monitor.sample(batch([1]), images(10)).differences == []


def test_samples_one_row_per_job():
    jobs = batch([[1], [1.01], [1.02]], [[5]])
    sample = OutputMonitor().sample(jobs, images(10, 11, 12, 112))
    assert sample.rows == 2
    assert np.allclose(sample.differences, [102 / 255 * 47 / 48])


def test_rate_and_rows_are_limited_per_group():
    clock = Clock()
    monitor = OutputMonitor(clock)
    jobs = [[i] for i in range(8)]
    assert monitor.sample(batch(*jobs), images(*range(8))).rows == ROWS_PER_SAMPLE
    assert monitor.sample(batch(*jobs), images(*range(8))) is None
    other = BatchGroup(key="other", run=dict, max_rows=8, pixels_per_row=1)
    assert monitor.sample(batch([1], group=other), images(1)) is not None
    clock.advance()
    assert monitor.sample(batch(*jobs), images(*range(8))) is not None


def test_images_of_different_models_are_not_compared():
    monitor = OutputMonitor()
    other = BatchGroup(key="other", run=dict, max_rows=8, pixels_per_row=1)
    monitor.sample(batch([1]), images(10))
    assert monitor.sample(batch([2], group=other), {"pixels": np.zeros((1, 9, 9, 3), np.uint8)})


def test_number_of_remembered_groups_is_bounded():
    monitor = OutputMonitor()
    for i in range(2000):
        group = BatchGroup(key=i, run=dict, max_rows=8, pixels_per_row=1)
        assert monitor.sample(batch([1], group=group), images(1)) is not None
    assert len(monitor._groups) < 300


def test_does_not_wait_for_another_thread():
    monitor = OutputMonitor()
    with monitor._lock:
        results = []
        thread = threading.Thread(
            target=lambda: results.append(monitor.sample(batch([1]), images(1)))
        )
        thread.start()
        thread.join(10)
        assert results == [None]


def test_outputs_are_neither_modified_nor_referenced():
    monitor = OutputMonitor()
    outputs = images(1, 2)
    before = outputs["pixels"].copy()
    monitor.sample(batch([1], [2]), outputs)
    assert np.array_equal(outputs["pixels"], before)
    last = monitor._groups["group"].last
    assert not any(np.shares_memory(array, outputs["pixels"]) for array in last)
