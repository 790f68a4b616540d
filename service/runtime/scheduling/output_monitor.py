"""A look at what models make while they serve: saturated, flat, not finite, or ever the same.

Pixels leave a graph as `uint8`, so a NaN in it cannot be seen as such: the cast makes it 0, on the
CPU as on CUDA. A NaN spreads over the whole picture, which then is flat. In outputs that are still
real numbers (the styles `w`) it is seen itself.

Only some batches are looked at, a few rows of them, and some values of those, so that the cost does
not grow with the load or with the pictures.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np

from service.runtime.scheduling.batches import Array, Batch, Rows

LOOKS_PER_SECOND = 4.0
ROWS_PER_LOOK = 4
VALUES_PER_PICTURE = 4096
# More lanes than any service has at a time; those of models that have gone are forgotten.
_MOST_LANES = 256


@dataclass(frozen=True)
class Look:
    """What was seen in some rows of a batch.

    `differences` are between pictures of different latents that follow on each other, of this look
    and from the one before: mean absolute differences of their values, as shares of the range.
    """

    rows: int
    values: int = 0
    saturated: int = 0
    flat: int = 0
    nonfinite: int = 0
    differences: Sequence[float] = ()


@dataclass
class _Lane:
    due: float
    # Which values of a picture are looked at: anywhere, so that no pattern of rows, columns or
    # channels is met with the same step.
    places: Array | None = None
    last: tuple[Array, Array] | None = field(default=None)


class OutputMonitor:
    """Looks at batches, at most so often a second for each lane. Any thread may call it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._lanes: dict[Hashable, _Lane] = {}

    def look(self, batch: Batch, outputs: Rows) -> Look | None:
        """Return what is seen in a batch, or None when it is not looked at."""
        # A look that another thread has begun is enough.
        if not self._lock.acquire(blocking=False):
            return None
        try:
            now = self._clock()
            lane = self._lanes.get(batch.lane.key)
            if lane is None:
                if len(self._lanes) >= _MOST_LANES:
                    del self._lanes[next(iter(self._lanes))]
                lane = self._lanes[batch.lane.key] = _Lane(due=now)
            if now < lane.due:
                return None
            lane.due = now + 1 / LOOKS_PER_SECOND
            pixels = outputs.get("pixels")
            if pixels is not None and pixels.dtype == np.uint8:
                return _look_at_pictures(lane, batch, pixels)
            return _look_at_numbers(batch, outputs)
        finally:
            self._lock.release()


def _look_at_pictures(lane: _Lane, batch: Batch, pixels: Array) -> Look:
    if lane.places is None:
        size = pixels[0].size
        # The same places for every picture of the lane, as the differences need it.
        lane.places = np.random.default_rng(0).choice(
            size, min(size, VALUES_PER_PICTURE), replace=False, shuffle=False
        )
    values = saturated = flat = 0
    differences = []
    # One row of a job: its neighbours may be near it on a walk through latent space.
    rows, latents = _first_rows(batch)
    for row, latent in zip(rows, latents, strict=True):
        sample = pixels[row].reshape(-1)[lane.places]
        values += sample.size
        saturated += int(np.count_nonzero((sample == 0) | (sample == 255)))
        flat += bool((sample == sample[0]).all())
        if latent is None:
            continue
        if lane.last is not None and not np.array_equal(latent, lane.last[0]):
            difference = np.subtract(sample, lane.last[1], dtype=np.int16)
            differences.append(float(np.abs(difference).mean()) / 255)
        lane.last = latent.copy(), sample
    return Look(len(rows), values, saturated, flat, 0, differences)


def _look_at_numbers(batch: Batch, outputs: Rows) -> Look:
    rows, _ = _first_rows(batch)
    nonfinite = sum(
        any(
            not np.isfinite(array[row]).all()
            for array in outputs.values()
            if array.dtype.kind == "f"
        )
        for row in rows
    )
    return Look(len(rows), nonfinite=nonfinite)


def _first_rows(batch: Batch) -> tuple[list[int], list[Array | None]]:
    """Return where in the batch its first jobs begin, and the latents there."""
    rows: list[int] = []
    latents: list[Array | None] = []
    row = 0
    for part in batch.parts[:ROWS_PER_LOOK]:
        name = next((name for name in ("z", "w") if name in part.job.feeds), None)
        rows.append(row)
        latents.append(None if name is None else part.feeds(name)[0])
        row += part.rows
    return rows, latents
