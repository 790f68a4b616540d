"""Files that clients upload for jobs: a folder for each job, beside the outputs.

A process that receives files holds a lock on their folder until the job is in the table, so that a
folder without a lock and without an unfinished job is what a killed process left.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from service.offline.inputs import safe_file_name

# Marks an input of a job that was uploaded, before its name; no URL begins with it.
SCHEME = "upload:"
_LOCK = "lock"
# A folder is locked at once after it was created.
_LOCKED_AFTER_S = 5.0


@dataclass
class Upload:
    """The files of one job that is not in the table yet; `id` is the id that it will have."""

    id: str
    folder: Path
    bytes: int = 0
    # The names of the files by the field that they were sent in.
    names: dict[str, str] = field(default_factory=dict)
    is_kept: bool = False

    @contextmanager
    def writing(self, name: str, file_name: str) -> Iterator[BinaryIO]:
        """Open the file of the field `name` for writing. It exists once the block has ended."""
        self.names[name] = safe_file_name(file_name)
        path = self.folder / name / self.names[name]
        path.parent.mkdir()
        temporary = path.with_name(f".{path.name}.part")
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            self.bytes += file.tell()
        temporary.replace(path)


class Uploads:
    """The files of all jobs of one jobs folder."""

    def __init__(self, folder: Path) -> None:
        """Use `folder`, which is created with the first upload."""
        self._folder = folder

    @contextmanager
    def receiving(self) -> Iterator[Upload]:
        """Yield a new upload, which is deleted at the end of the block unless it `is_kept`.

        Raises OSError.
        """
        import fcntl  # noqa: PLC0415 - POSIX only

        upload_id = secrets.token_hex(8)
        upload = Upload(upload_id, self._folder / upload_id)
        upload.folder.mkdir(parents=True)
        try:
            with (upload.folder / _LOCK).open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield upload
        finally:
            if not upload.is_kept:
                self.delete(upload_id)

    def path(self, job_id: str, name: str, reference: str) -> Path:
        """Return the path of a file, sent in the field `name`; `reference` as the job has it.

        It is always in the folder of the upload.
        """
        return self._folder / job_id / name / Path(reference.removeprefix(SCHEME)).name

    def delete(self, job_id: str) -> None:
        """Delete the files of a job, if it has any."""
        shutil.rmtree(self._folder / job_id, ignore_errors=True)

    def sweep(self, is_needed: Callable[[str], bool]) -> None:
        """Delete the files that no process is receiving and no job needs. Raises OSError."""
        if not self._folder.is_dir():
            return
        for folder in self._folder.iterdir():
            if not _is_being_received(folder) and not is_needed(folder.name):
                self.delete(folder.name)


def _is_being_received(folder: Path) -> bool:
    import fcntl  # noqa: PLC0415 - POSIX only

    try:
        age = time.time() - folder.stat().st_mtime
        if not (folder / _LOCK).exists():
            return abs(age) < _LOCKED_AFTER_S
        with (folder / _LOCK).open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        # Another process has just deleted it.
        return False
    return abs(age) < _LOCKED_AFTER_S and not any((folder).glob("*/*"))
