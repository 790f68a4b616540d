"""The history of recent batches: their sizes and speeds, and groups that ran out of memory."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import NamedTuple

from service.runtime.scheduling.batches import Batch, BatchGroup

# Seconds for which a group has smaller batches after it ran out of memory. Later, memory may be
# available again.
SMALLER_BATCHES_S = 60.0
# The number of groups whose last batch is recorded: every image size has a group of its own.
_MAX_GROUPS = 1000
# Growth of the shortest times per batch: a time that is never reached again is forgotten after some
# hundred batches.
_FORGET = 1.01


class Speed(NamedTuple):
    """How fast the batches of a group are: rows and seconds of the last one, and the shortest
    recent seconds of a batch and per row.

    Other work on the machine can make any batch slower, but none faster.
    """

    rows: int = 0
    seconds: float = 0.0
    shortest: float = math.inf
    shortest_per_row: float = math.inf


_UNKNOWN = Speed()


class BatchHistory:
    """Recent batches of all groups. Not thread-safe: the scheduler calls it under its lock.

    All times are seconds on the scheduler's clock.
    """

    def __init__(self) -> None:
        self._speeds: dict[Hashable, Speed] = {}
        # Groups that ran out of memory: their maximum number of rows, and until when it applies.
        self._reduced: dict[Hashable, tuple[int, float]] = {}
        # Exponentially weighted sums over recent batches.
        self._recent_pixels = 0.0
        self._recent_seconds = 0.0

    def record(self, batch: Batch, seconds: float, running: int) -> None:
        """Record that `batch` took `seconds` while `running` batches ran in parallel."""
        before = self._speeds.pop(batch.group.key, _UNKNOWN)
        self._speeds[batch.group.key] = Speed(
            batch.rows,
            seconds,
            min(seconds, before.shortest * _FORGET),
            min(seconds / batch.rows, before.shortest_per_row * _FORGET),
        )
        if len(self._speeds) > _MAX_GROUPS:
            del self._speeds[next(iter(self._speeds))]
        # Two sums instead of a mean of speeds: in a mean, a short batch of few pixels would have
        # the same weight as a long batch of many pixels. A batch counts only its share of the time,
        # because `running` batches ran in the same time.
        pixels = batch.rows * batch.group.pixels_per_row
        self._recent_pixels = 0.9 * self._recent_pixels + pixels
        self._recent_seconds = 0.9 * self._recent_seconds + max(seconds, 1e-6) / running

    def speed(self, key: Hashable) -> Speed:
        """Return the speed of a group's batches; of no rows before the first."""
        return self._speeds.get(key, _UNKNOWN)

    def estimate_seconds(self, pixels: int) -> float:
        """Return the time for `pixels` at the recent speed; 1 s if it is unknown."""
        return pixels * self._recent_seconds / self._recent_pixels if self._recent_pixels else 1.0

    def reduce(self, batch: Batch, now: float) -> int:
        """Limit the batches of a group that ran out of memory, for some time.

        Returns the limit in rows.
        """
        self._reduced = {key: limit for key, limit in self._reduced.items() if limit[1] > now}
        rows = min(batch.rows // 2, self.max_rows(batch.group, now))
        self._reduced[batch.group.key] = (rows, now + SMALLER_BATCHES_S)
        return rows

    def max_rows(self, group: BatchGroup, now: float) -> int:
        """Return the maximum number of rows of a batch of `group`."""
        rows, until = self._reduced.get(group.key, (group.max_rows, math.inf))
        return min(rows, group.max_rows) if now < until else group.max_rows
