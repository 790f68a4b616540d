"""Locks of the jobs folder: one process runs its jobs, and one adds a job at a time.

The kernel releases a lock if its process dies.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

# Seconds in which the process that has just locked the folder names its server.
_NAMING_S, _POLL_S = 2.0, 0.05


class FolderLock:
    """The locks of the jobs folder, as one process of the server `server` uses them."""

    def __init__(self, folder: Path, server: str) -> None:
        """Create nothing yet. The folder must exist before the other methods are called."""
        self._path = folder / "lock"
        self._adding_path = folder / "adding.lock"
        self._server = server
        self._file: IO[str] | None = None
        # A lock of a file belongs to the process, so threads need one of their own.
        self._adding = threading.Lock()

    @property
    def is_held(self) -> bool:
        """Whether this process runs the jobs."""
        return self._file is not None

    def take(self, prepare: Callable[[], None]) -> bool:
        """Lock the folder for as long as this process lives, and call `prepare`.

        Returns false if another process holds the lock. Raises OSError and the errors of `prepare`;
        the folder is not locked then.
        """
        import fcntl  # noqa: PLC0415 - POSIX only

        if self.is_held:
            return True
        # Not emptied: it names the server of the process that holds the lock.
        file = self._path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.truncate(0)
            prepare()
            file.write(self._server)
            file.flush()
        except BlockingIOError:
            file.close()
            return False
        except BaseException:
            file.close()
            raise
        self._file = file
        return True

    def is_held_by_this_server(self) -> bool:
        """Return whether a process of this server holds the lock and has prepared the folder.

        Waits a moment for a process that is just preparing it. Raises OSError.
        """
        end = time.monotonic() + _NAMING_S
        while self._path.read_text() != self._server:
            if time.monotonic() > end:
                return False
            time.sleep(_POLL_S)
        return True

    @contextmanager
    def adding(self) -> Iterator[None]:
        """Exclude `adding` in other threads and processes. Raises OSError."""
        import fcntl  # noqa: PLC0415 - POSIX only

        with self._adding, self._adding_path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
