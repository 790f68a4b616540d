"""How long a picture of many tiles takes, by those that are made."""

from __future__ import annotations

import math

# Of the time for an answer, what running a picture may take: the rest is for its file.
_RUNNING_SHARE = 0.9
# What takes so many times as long is refused by its first run. What is nearer has this share of the
# time to show a faster one, since others may have had the machine.
_FAR_BEYOND = 4.0
_WATCHED_SHARE = 0.25


class Pace:
    """The pace of the fastest run so far.

    What a run waited before does not count, and what others take of the machine counts as little
    as it can: neither is the picture's own doing.
    """

    def __init__(self, rows: int, seconds: float) -> None:
        """Expect so many rows; `seconds` is the time for an answer."""
        self._rows = rows
        self._seconds = seconds
        self._row_s = math.inf
        self._spent = 0.0

    def ran(self, rows: int, seconds: float) -> None:
        """Take how long a run of so many rows took."""
        self._row_s = min(self._row_s, seconds / rows)
        self._spent += seconds

    @property
    def total(self) -> float:
        """The seconds that all rows take at that pace; 0 before the first run."""
        return self._row_s * self._rows if self._row_s < math.inf else 0.0

    @property
    def is_too_slow(self) -> bool:
        """Whether the answer cannot be there in time, however little is waited for."""
        if self._spent < self._seconds * _WATCHED_SHARE:
            return self.total > self._seconds * _FAR_BEYOND
        return self.total > self._seconds * _RUNNING_SHARE
