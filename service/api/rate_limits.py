"""Rate limits: how many pixels per minute a client may generate.

A full queue (`problems.py`) and too many waiting jobs (`routes/jobs.py`) also give 429.

Each client has a token bucket that holds the pixels of one minute and refills evenly. A client that
has been idle can use a whole minute's worth at once; in the long run no client exceeds its rate.
The time until a refused request fits is known exactly, and pixels that were charged but not
generated can be refunded.

The package `limits`, the usual choice, stores one list entry per unit of cost in its moving window:
80 million pixels took it 3 s and 900 MB. A bucket is two numbers.

The processes of one server share the tokens (`service.processes.token_table`), so that limits are
exact over all of them. Pixels that a process took for requests and could not return because it died
are not lost: buckets refill in any case.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable
from typing import Protocol

from service.api.problems import Problem

MINUTE_S = 60.0
# Clients that are tracked before those with a full bucket are dropped.
_PRUNE_AT = 4096


class Tokens(Protocol):
    """The tokens of one bucket, which refills evenly within a minute."""

    def available(self) -> float:
        """Return the number of tokens."""

    def take(self, count: int) -> float:
        """Take `count` tokens if there are as many; return how many there were."""

    def put_back(self, count: int) -> None:
        """Add `count` tokens, up to the size of the bucket."""


class LocalTokens:
    """Tokens in the memory of this process. Not thread-safe."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._count = float(per_minute)
        self._refilled_at = clock()

    def available(self) -> float:
        """Return the number of tokens."""
        now = self._clock()
        self._count = refilled(self._count, self._refilled_at, now, self._per_minute)
        self._refilled_at = now
        return self._count

    def take(self, count: int) -> float:
        """Take `count` tokens if there are as many; return how many there were."""
        before = self.available()
        if count <= before:
            self._count -= count
        return before

    def put_back(self, count: int) -> None:
        """Add `count` tokens, up to the size of the bucket."""
        self._count = min(self.available() + count, float(self._per_minute))


def refilled(count: float, since: float, now: float, per_minute: int) -> float:
    """Return the tokens at the time `now` of a bucket that had `count` at the time `since`."""
    return min(count + (now - since) * per_minute / MINUTE_S, float(per_minute))


class TokenBucket:
    """The rate limit of one client: `per_minute` pixels."""

    def __init__(self, per_minute: int, tokens: Tokens) -> None:
        self.per_minute = per_minute
        self._tokens = tokens

    @property
    def available(self) -> int:
        """Pixels that can be taken now."""
        return int(self._tokens.available())

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
        available = self._tokens.take(pixels)
        if available < pixels:
            seconds = self._seconds_for(pixels - available)
            raise Problem(
                429,
                "rate-limited",
                "The rate limit is reached",
                f"the rate limit is {self.per_minute:,} pixels per minute; the {pixels:,} of this "
                f"request are available in {seconds:.1f} s",
                retry_after=seconds,
            )

    def put_back(self, pixels: int) -> None:
        """Undo taking `pixels`."""
        if pixels:
            self._tokens.put_back(pixels)

    def headers(self) -> dict[str, str]:
        """Return response headers: the limit, the pixels left, and seconds until it is full."""
        available = self._tokens.available()
        return {
            "ratelimit-limit": str(self.per_minute),
            "ratelimit-remaining": str(max(0, int(available))),
            "ratelimit-reset": str(math.ceil(self._seconds_for(self.per_minute - available))),
        }

    def _seconds_for(self, pixels: float) -> float:
        return max(0.0, pixels * MINUTE_S / self.per_minute)


class Buckets(Protocol):
    """The buckets of all clients. A full bucket and none at all are the same."""

    def tokens(self, client: Hashable, per_minute: int) -> Tokens:
        """Return the tokens of a client.

        A new client, or one whose rate has changed, gets a full bucket.
        """


class LocalBuckets:
    """Buckets in the memory of this process. Not thread-safe: called from the event loop only."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[Hashable, tuple[int, LocalTokens]] = {}
        self._prune_at = _PRUNE_AT

    def __len__(self) -> int:
        return len(self._buckets)

    def tokens(self, client: Hashable, per_minute: int) -> Tokens:
        """Return the tokens of a client, a full bucket if it is new or its rate has changed."""
        rate, tokens = self._buckets.get(client, (None, None))
        if tokens is None or rate != per_minute:
            if len(self._buckets) >= self._prune_at:
                self._prune()
                # Doubling the threshold makes the cost of pruning negligible per client.
                self._prune_at = max(_PRUNE_AT, 2 * len(self._buckets))
            tokens = LocalTokens(per_minute, self._clock)
            self._buckets[client] = per_minute, tokens
        return tokens

    def _prune(self) -> None:
        """Drop full buckets: a new one would be in the same state."""
        for client, (per_minute, tokens) in list(self._buckets.items()):
            if tokens.available() >= per_minute:
                del self._buckets[client]


class RateLimiter:
    """The token buckets of all clients."""

    def __init__(self, buckets: Buckets | None = None) -> None:
        """Use `buckets`; default: buckets in the memory of this process."""
        self._buckets = LocalBuckets() if buckets is None else buckets

    def bucket(self, client: Hashable, per_minute: int | None) -> TokenBucket | None:
        """Return the bucket of a client; None if `per_minute` is None.

        A new client, or one whose rate has changed, gets a full bucket.
        """
        if per_minute is None:
            return None
        return TokenBucket(per_minute, self._buckets.tokens(client, per_minute))


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
