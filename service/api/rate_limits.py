"""How many pixels a client may have made in a minute.

A token bucket for each client: it holds the pixels of one minute, and fills again evenly. So a
client that has been quiet may have its whole minute's worth at once, and in the long run nobody
gets more than the allowance. The time after which a refused request fits is known exactly, and what
was taken for pictures that were not made can be put back.

The package `limits`, the usual choice, keeps a list entry for each unit of cost in its moving
window: 80 million pixels took it 3 s and 900 MB. A bucket is two numbers.

Everything here is called from the event loop alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable

from service.api.problems import Problem

MINUTE_S = 60.0
# How many clients are known before those are forgotten whose bucket is full again.
_MANY = 4096


class Allowance:
    """What one client may have: `per_minute` pixels."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._filled = float(per_minute)
        self._at = clock()

    @property
    def left(self) -> int:
        """Pixels that can be had now."""
        return int(self._now())

    @property
    def full_in(self) -> float:
        """Seconds until the whole allowance is there again."""
        return self._seconds_for(self.per_minute)

    def take(self, pixels: int) -> None:
        """Take `pixels` out. Raises Problem: 429 when they are not there yet, 422 when they never
        will be.
        """
        if pixels > self.per_minute:
            raise Problem(
                422,
                "larger-than-allowance",
                "The request is larger than the allowance",
                f"the request has {pixels:,} pixels, and {self.per_minute:,} a minute are allowed; "
                "ask for fewer or smaller pictures",
            )
        if (seconds := self._seconds_for(pixels)) > 0:
            raise Problem(
                429,
                "rate-limited",
                "The allowance is used up",
                f"{self.per_minute:,} pixels a minute are allowed; the {pixels:,} of this request "
                f"can be had in {seconds:.1f} s",
                retry_after=seconds,
            )
        self._filled -= pixels

    def put_back(self, pixels: int) -> None:
        """Undo taking `pixels`."""
        self._filled = min(self._now() + pixels, float(self.per_minute))

    def headers(self) -> dict[str, str]:
        """Return what a client is told: its allowance, what is left, and when it is whole again."""
        return {
            "ratelimit-limit": str(self.per_minute),
            "ratelimit-remaining": str(max(0, self.left)),
            "ratelimit-reset": str(int(-(-self.full_in // 1))),
        }

    def _now(self) -> float:
        now = self._clock()
        filled = self._filled + (now - self._at) * self.per_minute / MINUTE_S
        self._filled, self._at = min(filled, float(self.per_minute)), now
        return self._filled

    def _seconds_for(self, pixels: int) -> float:
        return max(0.0, (pixels - self._now()) * MINUTE_S / self.per_minute)


class Rates:
    """The allowances of all clients, each by whatever tells it from the others."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._allowances: dict[Hashable, Allowance] = {}
        self._many = _MANY

    def of(self, client: Hashable, per_minute: int | None) -> Allowance | None:
        """Return the allowance of a client, None where it may have as much as it likes."""
        if per_minute is None:
            return None
        allowance = self._allowances.get(client)
        if allowance is None or allowance.per_minute != per_minute:
            if len(self._allowances) >= self._many:
                self._forget()
                # Not again before there are twice as many, so that this costs next to nothing.
                self._many = max(_MANY, 2 * len(self._allowances))
            allowance = self._allowances[client] = Allowance(per_minute, self._clock)
        return allowance

    def _forget(self) -> None:
        """Forget who has the whole allowance again: as if never seen."""
        for client, allowance in list(self._allowances.items()):
            if allowance.full_in == 0:
                del self._allowances[client]


class Account:
    """What one request takes of its client's allowance, and gives back of what it did not get."""

    def __init__(self, allowance: Allowance | None) -> None:
        self._allowance = allowance
        self._reserved = 0

    def reserve(self, pixels: int) -> None:
        """Take what will be spent, at once. Raises what Allowance.take raises."""
        if self._allowance is not None:
            self._allowance.take(pixels)
            self._reserved += pixels

    def spend(self, pixels: int) -> None:
        """Spend what is reserved first. Raises what Allowance.take raises, and then has not."""
        if self._allowance is not None:
            self.reserve(max(0, pixels - self._reserved))
            self._reserved -= pixels

    def unspend(self, pixels: int) -> None:
        """Undo spending `pixels`; they are reserved until the end."""
        if self._allowance is not None:
            self._reserved += pixels

    def close(self) -> None:
        """Give back what is reserved and was not spent."""
        if self._allowance is not None:
            self._allowance.put_back(self._reserved)
            self._reserved = 0
