"""The table of the worker processes of one server: who lives, in which state, with what load.

The table is a folder that the supervisor creates and every worker opens. A worker owns one row and
writes only that row; all may read all rows. The row of a worker that died is recognized by its
lock, which the kernel released.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.processes.shared_array import SharedArray

ROW = np.dtype(
    [
        ("pid", np.int64),
        # Whether the worker accepts requests: its models are loaded, and it does not drain.
        ("ready", np.int64),
        # `time.monotonic()` of the last turn of its event loop.
        ("beat", np.float64),
        # Whether it accepts connections, be it to respond that it is not ready.
        ("accepting", np.int64),
        # Open client connections.
        ("connections", np.int64),
        # Pixels that were accepted and are not generated yet.
        ("queue_pixels", np.int64),
        # Those of low priority.
        ("low_pixels", np.int64),
        # Pixels of uploads that are decoded and in memory.
        ("upload_pixels", np.int64),
        # Whether the worker takes part in reloads: its models are loaded, and it does not drain.
        ("reloads", np.int64),
        # The newest generation of the models that the worker can switch to; see `SERVER`.
        ("prepared", np.int64),
        # The generation that the worker serves.
        ("serving", np.int64),
    ]
)
SERVER = np.dtype(
    [
        # Worker processes that the server should have; 0 until it is decided. The supervisor reads
        # it as the first eight bytes of the file.
        ("wanted", np.int64),
        # The newest generation of the models that was asked for, and the one to serve. Generation 0
        # are the models at the start.
        ("requested", np.int64),
        ("active", np.int64),
    ]
)

# A worker whose event loop has not turned for this many seconds is not expected to accept soon, and
# after this many seconds not at all. On a busy machine a loop may pause for some seconds.
_RESPONSIVE_S, _PAUSED_S = 1.0, 10.0
# Seconds for which a worker waits for a row, and between two attempts.
_JOIN_S, _RETRY_S = 5.0, 0.01


class WorkerTable:
    """The rows of all workers, and the row of this process once it has called `join`."""

    def __init__(self, folder: Path, size: int) -> None:
        """Open the table of at most `size` workers in `folder`, creating it. Raises OSError."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder = folder
        self._rows = SharedArray(folder / "workers", ROW, size)
        self._server = SharedArray(folder / "server", SERVER, 1)
        self._locks = [
            os.open(folder / f"worker-{i}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            for i in range(size)
        ]
        self._own: int | None = None

    @property
    def index(self) -> int:
        """The index of this process's row. Raises RuntimeError before `join`."""
        if self._own is None:
            raise RuntimeError("this process has no row in the table of workers")
        return self._own

    @property
    def own(self) -> np.void:
        """The row of this process: assign its fields by name."""
        row: np.void = self._rows.values[self.index]
        return row

    @property
    def server(self) -> np.void:
        """What applies to all workers: assign its fields by name, under `locked`."""
        row: np.void = self._server.values[0]
        return row

    def server_column(self, field: str) -> NDArray[np.int64]:
        """Return the value of a field of `server`, an array of length 1 that follows changes."""
        column: NDArray[np.int64] = self._server.values[field]
        return column

    @property
    def size(self) -> int:
        """The maximum number of workers."""
        return len(self._locks)

    def locked(self) -> AbstractContextManager[NDArray[np.void]]:
        """Exclude all other processes and threads that use `locked`; yields all rows."""
        return self._rows.locked()

    def join(self) -> int:
        """Take the first row without a living worker, for as long as this process lives.

        Returns its index. Raises RuntimeError if all rows stay taken for `_JOIN_S` seconds.
        """
        end = time.monotonic() + _JOIN_S
        while self._own is None:
            self._own = self._lock_row()
            if self._own is None:
                if time.monotonic() > end:
                    raise RuntimeError(f"the server already has {len(self._locks)} workers")
                time.sleep(_RETRY_S)
        self._rows.values[self._own] = 0
        self.own["pid"] = os.getpid()
        return self._own

    def _lock_row(self) -> int | None:
        """Lock the first free row and return its index; None if all are locked.

        A row can be locked for a moment because another worker looks whether it is free.
        """
        for index, lock in enumerate(self._locks):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            return index
        return None

    def is_alive(self, index: int) -> bool:
        """Return whether a worker that owns this row is alive."""
        if index == self._own:
            return True
        try:
            fcntl.flock(self._locks[index], fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self._locks[index], fcntl.LOCK_UN)
        return False

    def living_indices(self) -> list[int]:
        """Return the indices of the rows of living workers."""
        pids = self.column("pid").tolist()
        return [index for index, pid in enumerate(pids) if pid and self.is_alive(index)]

    def count(self) -> tuple[int, int]:
        """Return how many workers are alive, and how many of them are ready."""
        living = self.living_indices()
        ready = self.column("ready")
        return len(living), sum(int(ready[index]) for index in living)

    def living(self) -> Iterator[np.void]:
        """Yield the rows of living workers."""
        for index in self.living_indices():
            yield self._rows.values[index]

    def column(self, field: str) -> NDArray[np.int64]:
        """Return the values of a field in all rows; they change as the workers write them."""
        column: NDArray[np.int64] = self._rows.values[field]
        return column

    def connections_of_others(self, *, even_paused: bool = False) -> list[int]:
        """Return the number of open connections of each other worker that can serve.

        One whose event loop pauses is counted only if `even_paused` is true, and for some seconds.
        """
        oldest = time.monotonic() - (_PAUSED_S if even_paused else _RESPONSIVE_S)
        return [
            int(row["connections"])
            for index, row in enumerate(self._rows.values)
            if index != self._own and row["ready"] and row["beat"] > oldest and self.is_alive(index)
        ]

    def stop_accepting(self) -> bool:
        """Note that this worker accepts no further connections, unless it is the last that does.

        Returns False if it is the last.
        """
        with self.locked():
            others = any(
                row["accepting"] and index != self._own and self.is_alive(index)
                for index, row in enumerate(self._rows.values)
            )
            if others:
                self.own["accepting"] = 0
        return others
