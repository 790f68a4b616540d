"""A cache of mapped styles, bounded in bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable

from service.runtime.onnx.sessions import Array


class StyleCache:
    """The most recently used styles ``[layers, w_dim]``, at most `limit` bytes of them.

    A source that is used again, in another style mix or interpolation, need not be mapped again.
    All methods are thread-safe.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._styles: OrderedDict[Hashable, Array] = OrderedDict()
        self._bytes = 0

    def get(self, key: Hashable) -> Array | None:
        """Return the cached styles of a source, or None."""
        with self._lock:
            if (styles := self._styles.get(key)) is not None:
                self._styles.move_to_end(key)
            return styles

    def put(self, key: Hashable, styles: Array) -> None:
        """Add the styles of a source, and evict the least recently used ones over the limit."""
        if styles.nbytes > self._limit:
            return
        # A view of one row would keep the whole batch in memory.
        cached = styles.copy()
        cached.flags.writeable = False
        with self._lock:
            if (old := self._styles.pop(key, None)) is not None:
                self._bytes -= old.nbytes
            self._styles[key] = cached
            self._bytes += cached.nbytes
            while self._bytes > self._limit:
                _, evicted = self._styles.popitem(last=False)
                self._bytes -= evicted.nbytes

    def __len__(self) -> int:
        return len(self._styles)
