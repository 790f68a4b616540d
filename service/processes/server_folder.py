"""The folder in which the processes of one server share memory, and how workers find it.

The supervisor creates it and passes it on in environment variables. Imports nothing slow: the
supervisor needs it, too.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

_PATH, _SIZE = "GANYMEDE_SERVER_FOLDER", "GANYMEDE_SERVER_SIZE"
# A file system in memory, so that no change is written to a disk.
_MEMORY = Path("/dev/shm")  # noqa: S108 - the folder below it is private
_PREFIX, _LOCK = "ganymede-server-", "supervisor.lock"
# More than the files of a server hold: the table of rate limits, and the metrics of each worker.
_BYTES, _BYTES_PER_WORKER = 16 * 2**20, 2 * 2**20
# Seconds after which a folder without a lock is not about to get one.
_NEW_S = 60.0


@dataclass(frozen=True)
class ServerFolder:
    """The folder `path` of a server that has at most `size` workers."""

    path: Path
    size: int

    @classmethod
    def create(cls, size: int, *, decided: bool = True) -> ServerFolder:
        """Create the folder of a new server. Raises OSError.

        Unless it is `decided` that there are `size` workers, the first one decides how many.
        """
        path = _new_locked_folder(_MEMORY if _has_space(_MEMORY, size) else None)
        _remove_abandoned(path.parent)
        if decided:
            (path / "server").write_bytes(size.to_bytes(8, sys.byteorder))
        return cls(path, size)

    @classmethod
    def of_this_server(cls) -> ServerFolder:
        """Return the folder that the supervisor passed on; without one, create one for one worker.

        Raises OSError.
        """
        if path := os.environ.get(_PATH):
            return cls(Path(path), int(os.environ[_SIZE]))
        return cls.create(1)

    def environment(self) -> dict[str, str]:
        """Return the variables by which a worker finds this folder."""
        return {_PATH: str(self.path), _SIZE: str(self.size)}

    def note_stop(self) -> None:
        """Let all workers know that the whole server stops, and not only one of them."""
        (self.path / "stopping").touch()

    @property
    def is_stopping(self) -> bool:
        """True once the whole server stops."""
        return (self.path / "stopping").exists()

    @property
    def wanted(self) -> int:
        """The number of workers that the server should have; 0 until a worker has decided it.

        Workers write it in `WorkerTable.server`.
        """
        try:
            with (self.path / "server").open("rb") as file:
                return int.from_bytes(file.read(8), sys.byteorder)
        except OSError:
            return 0

    def remove(self) -> None:
        """Remove the folder. Processes that have opened its files keep them."""
        shutil.rmtree(self.path, ignore_errors=True)


def _has_space(memory: Path, size: int) -> bool:
    """Return whether the files of `size` workers fit.

    A process that writes to a mapped page for which the file system has no space is killed.
    """
    try:
        return os.access(memory, os.W_OK | os.X_OK) and (
            shutil.disk_usage(memory).free >= _BYTES + size * _BYTES_PER_WORKER
        )
    except OSError:
        return False


def _new_locked_folder(parent: Path | None) -> Path:
    """Create a folder with a lock that is held for as long as this process lives."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (path / _LOCK).exists():
            return path
        # Another server took the folder for an abandoned one before it was locked.
        os.close(lock)


def _remove_abandoned(parent: Path) -> None:
    """Remove the folders of servers that were killed, with all of their processes."""
    for folder in parent.glob(f"{_PREFIX}*"):
        try:
            if folder.stat().st_uid != os.getuid():
                continue
            lock = os.open(folder / _LOCK, os.O_RDWR)
        except FileNotFoundError:
            # Of a server that is starting, unless it is old.
            if folder.exists() and time.time() - folder.stat().st_mtime > _NEW_S:
                shutil.rmtree(folder, ignore_errors=True)
            continue
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass  # Its server is alive.
        else:
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)
