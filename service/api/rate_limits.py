"""Rate limits: how many pixels per minute a client may generate.

A full queue (`problems.py`) and too many waiting jobs (`routes/jobs.py`) also give 429.

Each client has a token bucket that holds the pixels of one minute and refills evenly. A client that
has been idle can use a whole minute's worth at once; in the long run no client exceeds its rate.
The time until a refused request fits is known exactly, and pixels that were charged but not
generated can be refunded.

The package `limits`, the usual choice, stores one list entry per unit of cost in its moving window:
80 million pixels took it 3 s and 900 MB. A bucket is two numbers.

Nothing here is thread-safe: all calls come from the event loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable

from service.api.problems import Problem

MINUTE_S = 60.0
# Clients that are tracked before those with a full bucket are dropped.
_PRUNE_AT = 4096


class TokenBucket:
    """The rate limit of one client: `per_minute` pixels."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._tokens = float(per_minute)
        self._refilled_at = clock()

    @property
    def available(self) -> int:
        """Pixels that can be taken now."""
        return int(self._refill())

    @property
    def seconds_until_full(self) -> float:
        """Seconds until the bucket is full again."""
        return self._seconds_until(self.per_minute)

    def take(self, pixels: int) -> None:
        """Take `pixels` out of the bucket.

        Raises Problem: 429 if they are not available yet, 422 if they are more than the bucket
        can hold.
        """
        if pixels > self.per_minute:
            raise Problem(
                422,
                "larger-than-allowance",
                "The request exceeds the rate limit",
                f"the request has {pixels:,} pixels, and the rate limit is {self.per_minute:,} per "
                "minute; request fewer or smaller images",
            )
        if (seconds := self._seconds_until(pixels)) > 0:
            raise Problem(
                429,
                "rate-limited",
                "The rate limit is reached",
                f"the rate limit is {self.per_minute:,} pixels per minute; the {pixels:,} of this "
                f"request are available in {seconds:.1f} s",
                retry_after=seconds,
            )
        self._tokens -= pixels

    def put_back(self, pixels: int) -> None:
        """Undo taking `pixels`."""
        self._tokens = min(self._refill() + pixels, float(self.per_minute))

    def headers(self) -> dict[str, str]:
        """Return response headers: the limit, the pixels left, and seconds until it is full."""
        return {
            "ratelimit-limit": str(self.per_minute),
            "ratelimit-remaining": str(max(0, self.available)),
            "ratelimit-reset": str(int(-(-self.seconds_until_full // 1))),
        }

    def _refill(self) -> float:
        now = self._clock()
        tokens = self._tokens + (now - self._refilled_at) * self.per_minute / MINUTE_S
        self._tokens, self._refilled_at = min(tokens, float(self.per_minute)), now
        return self._tokens

    def _seconds_until(self, pixels: int) -> float:
        return max(0.0, (pixels - self._refill()) * MINUTE_S / self.per_minute)


class RateLimiter:
    """The token buckets of all clients."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[Hashable, TokenBucket] = {}
        self._prune_at = _PRUNE_AT

    def bucket(self, client: Hashable, per_minute: int | None) -> TokenBucket | None:
        """Return the bucket of a client; None if `per_minute` is None.

        A new client, or one whose rate has changed, gets a full bucket.
        """
        if per_minute is None:
            return None
        bucket = self._buckets.get(client)
        if bucket is None or bucket.per_minute != per_minute:
            if len(self._buckets) >= self._prune_at:
                self._prune()
                # Doubling the threshold makes the cost of pruning negligible per client.
                self._prune_at = max(_PRUNE_AT, 2 * len(self._buckets))
            bucket = self._buckets[client] = TokenBucket(per_minute, self._clock)
        return bucket

    def _prune(self) -> None:
        """Drop full buckets: a new one would be in the same state."""
        for client, bucket in list(self._buckets.items()):
            if bucket.seconds_until_full == 0:
                del self._buckets[client]


class PixelAccount:
    """The pixels that one request takes from its client's bucket.

    Pixels can be reserved before they are charged. `close` returns reserved pixels that were not
    charged.
    """

    def __init__(self, bucket: TokenBucket | None) -> None:
        self._bucket = bucket
        self._reserved = 0

    def reserve(self, pixels: int) -> None:
        """Take pixels from the bucket now, to be charged later.

        Raises the errors of TokenBucket.take.
        """
        if self._bucket is not None:
            self._bucket.take(pixels)
            self._reserved += pixels

    def charge(self, pixels: int) -> None:
        """Charge pixels, reserved pixels first.

        Raises the errors of TokenBucket.take; nothing is charged then.
        """
        if self._bucket is not None:
            self.reserve(max(0, pixels - self._reserved))
            self._reserved -= pixels

    def refund(self, pixels: int) -> None:
        """Undo the charge of `pixels`; they stay reserved until `close`."""
        if self._bucket is not None:
            self._reserved += pixels

    def close(self) -> None:
        """Return reserved pixels that were not charged."""
        if self._bucket is not None:
            self._bucket.put_back(self._reserved)
            self._reserved = 0
