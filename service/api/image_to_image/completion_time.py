"""Estimates how long an image of many tiles takes, from the tiles that have run."""

from __future__ import annotations

import math

# The share of the deadline that inference may take; the rest is for encoding.
_INFERENCE_SHARE = 0.9
# An estimate above this multiple of the deadline is refused after the first run. A smaller excess
# is only refused after this share of the deadline, because other work may have slowed the machine.
_CLEARLY_TOO_SLOW = 4.0
_OBSERVED_SHARE = 0.25


class CompletionEstimate:
    """Estimates the time for all rows from the fastest run so far.

    Time in the queue does not count. The fastest run is the least affected by other work on the
    machine, so the estimate depends mainly on the size of the image.
    """

    def __init__(self, rows: int, seconds: float) -> None:
        """Estimate `rows` rows against a deadline of `seconds`."""
        self._rows = rows
        self._seconds = seconds
        self._row_s = math.inf
        self._spent = 0.0

    def add_run(self, rows: int, seconds: float) -> None:
        """Record a run of `rows` rows that took `seconds`."""
        self._row_s = min(self._row_s, seconds / rows)
        self._spent += seconds

    @property
    def total(self) -> float:
        """The estimated seconds for all rows; 0 before the first run."""
        return self._row_s * self._rows if self._row_s < math.inf else 0.0

    @property
    def is_too_slow(self) -> bool:
        """True if the deadline will be missed even with an empty queue."""
        if self._spent < self._seconds * _OBSERVED_SHARE:
            return self.total > self._seconds * _CLEARLY_TOO_SLOW
        return self.total > self._seconds * _INFERENCE_SHARE
