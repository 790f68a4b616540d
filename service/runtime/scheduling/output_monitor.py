"""Monitors the outputs of models in service: detects saturated, flat, non-finite or repetitive
outputs.

Graphs return pixels as `uint8`, so a NaN is not visible in them: the cast converts it to 0, on the
CPU and on CUDA. But a NaN spreads over the whole image, which is then flat. In outputs of floats
(the styles `w`) it is detected directly.

Only some batches are sampled, and only some rows and values of each batch, so that the cost grows
neither with the load nor with the image size.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np

from service.runtime.scheduling.batches import Array, Batch, Rows

SAMPLES_PER_SECOND = 4.0
ROWS_PER_SAMPLE = 4
VALUES_PER_IMAGE = 4096
# More batch groups than any service has at a time; the oldest are dropped.
_MAX_GROUPS = 256


@dataclass(frozen=True)
class OutputSample:
    """Statistics of some rows of a batch.

    `differences` compares consecutive images of different latents, across samples too: mean
    absolute differences of their values, as fractions of the value range.
    """

    rows: int
    values: int = 0
    saturated: int = 0
    flat: int = 0
    nonfinite: int = 0
    differences: Sequence[float] = ()


@dataclass
class _GroupState:
    due: float
    # Indices of the sampled values of an image, drawn at random to avoid aliasing with patterns of
    # rows, columns or channels.
    indices: Array | None = None
    last: tuple[Array, Array] | None = field(default=None)


class OutputMonitor:
    """Samples batches at a limited rate per batch group. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._groups: dict[Hashable, _GroupState] = {}

    def sample(self, batch: Batch, outputs: Rows) -> OutputSample | None:
        """Return statistics of a batch, or None if it is not sampled."""
        # Skip if another thread is sampling.
        if not self._lock.acquire(blocking=False):
            return None
        try:
            now = self._clock()
            state = self._groups.get(batch.group.key)
            if state is None:
                if len(self._groups) >= _MAX_GROUPS:
                    del self._groups[next(iter(self._groups))]
                state = self._groups[batch.group.key] = _GroupState(due=now)
            if now < state.due:
                return None
            state.due = now + 1 / SAMPLES_PER_SECOND
            pixels = outputs.get("pixels")
            if pixels is not None and pixels.dtype == np.uint8:
                return _sample_images(state, batch, pixels)
            return _sample_numbers(batch, outputs)
        finally:
            self._lock.release()


def _sample_images(state: _GroupState, batch: Batch, pixels: Array) -> OutputSample:
    if state.indices is None:
        size = pixels[0].size
        # The same indices for all images of the group: differences compare corresponding values.
        state.indices = np.random.default_rng(0).choice(
            size, min(size, VALUES_PER_IMAGE), replace=False, shuffle=False
        )
    values = saturated = flat = 0
    differences = []
    # One row per job: neighboring rows may be close to each other in latent space.
    rows, latents = _first_rows(batch)
    for row, latent in zip(rows, latents, strict=True):
        sample = pixels[row].reshape(-1)[state.indices]
        values += sample.size
        saturated += int(np.count_nonzero((sample == 0) | (sample == 255)))
        flat += bool((sample == sample[0]).all())
        if latent is None:
            continue
        if state.last is not None and not np.array_equal(latent, state.last[0]):
            difference = np.subtract(sample, state.last[1], dtype=np.int16)
            differences.append(float(np.abs(difference).mean()) / 255)
        state.last = latent.copy(), sample
    return OutputSample(len(rows), values, saturated, flat, 0, differences)


def _sample_numbers(batch: Batch, outputs: Rows) -> OutputSample:
    rows, _ = _first_rows(batch)
    nonfinite = sum(
        any(
            not np.isfinite(array[row]).all()
            for array in outputs.values()
            if array.dtype.kind == "f"
        )
        for row in rows
    )
    return OutputSample(len(rows), nonfinite=nonfinite)


def _first_rows(batch: Batch) -> tuple[list[int], list[Array | None]]:
    """Return the first row of each of the first jobs in the batch, and its latent."""
    rows: list[int] = []
    latents: list[Array | None] = []
    row = 0
    for part in batch.parts[:ROWS_PER_SAMPLE]:
        name = next((name for name in ("z", "w") if name in part.job.feeds), None)
        rows.append(row)
        latents.append(None if name is None else part.feeds(name)[0])
        row += part.rows
    return rows, latents
