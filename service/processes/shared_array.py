"""An array in memory that several processes share.

The array is a file, mapped into the memory of each process. Reading and writing an element takes
no system call; what must not be interleaved happens under a lock of the file, which the kernel
releases if a process dies.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import threading
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike, NDArray


class SharedArray:
    """A structured array of a fixed length, in `path`; all elements are zero at first.

    Every process opens the file for itself: an instance does not survive a fork. Aligned fields of
    up to 8 bytes are read and written whole. Everything else needs `locked`.
    """

    def __init__(self, path: Path, dtype: DTypeLike, length: int) -> None:
        """Open the file, which is created if it does not exist. Raises OSError."""
        size = np.dtype(dtype).itemsize * length
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(self._file).st_size < size:
                # Not sparse: without space for a page, writing to it would end the process later.
                os.posix_fallocate(self._file, 0, size)
            self._memory = mmap.mmap(self._file, size)
        except BaseException:
            os.close(self._file)
            raise
        self.values: NDArray[np.void] = np.frombuffer(self._memory, dtype, length)
        self._lock = _ArrayLock(self._file, self.values)

    def locked(self) -> AbstractContextManager[NDArray[np.void]]:
        """Exclude all other processes and threads that use `locked`; yields `values`."""
        return self._lock


class _ArrayLock:
    """Locks the file of an array. A class, because a generator would take twice the time."""

    def __init__(self, file: int, values: NDArray[np.void]) -> None:
        self._file = file
        self._values = values
        # A lock of the file belongs to the process, so threads need one of their own.
        self._threads = threading.Lock()

    def __enter__(self) -> NDArray[np.void]:
        self._threads.acquire()
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX)
        except BaseException:
            self._threads.release()
            raise
        return self._values

    def __exit__(self, *_: object) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_UN)
        finally:
            self._threads.release()
