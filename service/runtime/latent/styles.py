"""Styles: mixing them (StyleGAN, section 3.1), and keeping those that were just mapped."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Mapping

import numpy as np

from service.runtime.onnx.sessions import Array


def mix(rows: Array, columns: Array, layers: Mapping[int, float]) -> Array:
    """Return the styles of every row with `layers` taken over by every column.

    `rows` ``[R, layers, w_dim]`` and `columns` ``[C, layers, w_dim]`` give ``[R * C, layers,
    w_dim]``, in row-major order: (i, j) has the styles of row i, but those of `layers` of column j,
    by their weights: 1 is the column's and 0 the row's to the last bit.
    """
    mixed = np.repeat(rows, len(columns), axis=0)
    indices = list(layers)
    weights = np.array(list(layers.values()), rows.dtype)[:, None]
    others = np.tile(columns[:, indices], (len(rows), 1, 1))
    mixed[:, indices] = (1 - weights) * mixed[:, indices] + weights * others
    return mixed


class StyleCache:
    """The styles ``[layers, w_dim]`` of the sources seen last, in `limit` bytes at most.

    Whoever shows a source once more, in another mix or walk, does not have it mapped again. All
    methods may be called from any thread.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._styles: OrderedDict[Hashable, Array] = OrderedDict()
        self._bytes = 0

    def get(self, key: Hashable) -> Array | None:
        """Return the styles of a source, or None where they have to be mapped."""
        with self._lock:
            if (styles := self._styles.get(key)) is not None:
                self._styles.move_to_end(key)
            return styles

    def put(self, key: Hashable, styles: Array) -> None:
        """Keep the styles of a source, in place of the oldest ones."""
        if styles.nbytes > self._limit:
            return
        # A copy: the row of a batch would keep the whole batch in memory.
        kept = styles.copy()
        kept.flags.writeable = False
        with self._lock:
            if (old := self._styles.pop(key, None)) is not None:
                self._bytes -= old.nbytes
            self._styles[key] = kept
            self._bytes += kept.nbytes
            while self._bytes > self._limit:
                _, dropped = self._styles.popitem(last=False)
                self._bytes -= dropped.nbytes

    def __len__(self) -> int:
        return len(self._styles)
