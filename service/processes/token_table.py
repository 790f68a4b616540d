"""The token buckets of all clients, shared by the processes of one server.

The table has a fixed number of slots. A client belongs to one of the slots of a window that a hash
of its identity selects. A full bucket is the same as none, so its slot can be used for another
client at any time, and nothing has to be removed.

If no slot of a window is free, the bucket that is closest to full gives way: its client gets the
few tokens that it lacked. With 2^17 slots this takes about 100,000 clients that all have used a
part of their limit within the last minute.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Hashable
from functools import lru_cache
from pathlib import Path

import numpy as np

from service.processes.shared_array import SharedArray

log = logging.getLogger("ganymede.limits")

SLOTS = 2**17
_WINDOW = 32
_MINUTE_S = 60.0
BUCKET = np.dtype(
    [
        # A hash of the client's identity; 0 for a slot that was never used.
        ("client", np.uint64),
        ("per_minute", np.int64),
        ("count", np.float64),
        # When the bucket had `count` tokens, on the clock that all processes share.
        ("refilled_at", np.float64),
    ]
)


class TokenTable:
    """Implements `service.api.rate_limits.Buckets` for several processes. Thread-safe."""

    def __init__(
        self, path: Path, slots: int = SLOTS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Open the table in the file `path`, creating it. Raises OSError."""
        self._table = SharedArray(path, BUCKET, slots)
        self._clock = clock
        self._windows = max(slots // _WINDOW, 1)
        values = self._table.values
        self._client, self._per_minute = values["client"], values["per_minute"]
        self._count, self._refilled_at = values["count"], values["refilled_at"]
        self._warned = False

    def tokens(self, client: Hashable, per_minute: int) -> SharedTokens:
        """Return the tokens of a client, a full bucket if it is new or its rate has changed."""
        return SharedTokens(self, _client_hash(str(client)), per_minute)

    def change(self, client: int, per_minute: int, change: float) -> float:
        """Add `change` tokens to a bucket, unless fewer than none would remain.

        Returns the number of tokens before the change.
        """
        with self._table.locked():
            now = self._clock()
            slot = self._find(client)
            if slot is not None and self._per_minute[slot] == per_minute:
                before = self._tokens_of(slot, now)
            else:
                before = float(per_minute)
            after = min(before + change, float(per_minute))
            if change == 0 or after < 0 or (slot is None and after == per_minute):
                return before
            if slot is None:
                slot = self._free_slot(client, now)
                self._client[slot] = client
            self._per_minute[slot] = per_minute
            # A process that dies between these two lines has at most withheld the tokens of the
            # last refill.
            self._refilled_at[slot] = now
            self._count[slot] = after
            return before

    def _window(self, client: int) -> int:
        """Return the first slot of the client's window."""
        return client % self._windows * _WINDOW

    def _find(self, client: int) -> int | None:
        start = self._window(client)
        try:
            # Faster than a comparison of arrays, which are short.
            clients: list[int] = self._client[start : start + _WINDOW].tolist()
            return start + clients.index(client)
        except ValueError:
            return None

    def _free_slot(self, client: int, now: float) -> int:
        """Return a slot of the client's window that holds no bucket or the fullest one."""
        start = self._window(client)
        slots = range(start, min(start + _WINDOW, len(self._client)))
        best, best_missing_s = start, float("inf")
        for slot in slots:
            if not self._client[slot]:
                return slot
            per_minute = float(self._per_minute[slot])
            # In time, so that buckets of different sizes can be compared.
            missing_s = (per_minute - self._tokens_of(slot, now)) * _MINUTE_S / per_minute
            if missing_s < best_missing_s:
                best, best_missing_s = slot, missing_s
        if best_missing_s > 0 and not self._warned:
            self._warned = True
            log.warning("the table of rate limits is full: some clients get more than their limit")
        return best

    def _tokens_of(self, slot: int, now: float) -> float:
        per_minute = float(self._per_minute[slot])
        passed = now - float(self._refilled_at[slot])
        return min(float(self._count[slot]) + passed * per_minute / _MINUTE_S, per_minute)


class SharedTokens:
    """The tokens of one client. Implements `service.api.rate_limits.Tokens`."""

    __slots__ = ("_client", "_per_minute", "_table")

    def __init__(self, table: TokenTable, client: int, per_minute: int) -> None:
        self._table = table
        self._client = client
        self._per_minute = per_minute

    def available(self) -> float:
        """Return the number of tokens."""
        return self._table.change(self._client, self._per_minute, 0)

    def take(self, count: int) -> float:
        """Take `count` tokens if there are as many; return how many there were."""
        return self._table.change(self._client, self._per_minute, -count)

    def put_back(self, count: int) -> None:
        """Add `count` tokens, up to the size of the bucket."""
        self._table.change(self._client, self._per_minute, count)


@lru_cache(maxsize=4096)
def _client_hash(client: str) -> int:
    digest = hashlib.blake2b(client.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest) or 1
