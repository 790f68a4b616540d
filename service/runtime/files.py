"""Atomic file replacement, names of files, opening of regular files, and the location of caches."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import ClassVar

from service.runtime.errors import UserError

# File systems allow 255 bytes, of which extensions and a hash take some.
_MAX_NAME_BYTES = 200


class CannotWrite(UserError):
    """A file cannot be written, for example because the disk is full or access is denied."""

    exit_code: ClassVar[int] = 1

    def __init__(self, path: Path, error: OSError) -> None:
        # Errors that Pillow raises have no errno, and therefore no strerror.
        super().__init__(f"{path} cannot be written: {error.strerror or error}")


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading, or a link to one.

    Opening a named pipe would wait for a writer, and reading a device might never end. Raises
    OSError, also for anything but a regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def shortened(name: str) -> str:
    """Return a file or folder name that fits every file system and archive.

    A long name is cut, and ends with a hash of the whole name.
    """
    if len(name.encode()) <= _MAX_NAME_BYTES:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{name.encode()[:_MAX_NAME_BYTES].decode(errors='ignore')}-{digest}"


def folder_names(classes: Sequence[str]) -> list[str]:
    """Return a valid and unique folder name for each class."""
    names: list[str] = []
    for i, name in enumerate(classes):
        folder = shortened(re.sub(r"[^\w.-]+", "-", name).strip(".-") or f"class-{i}")
        taken = {each.casefold() for each in names}
        names.append(f"{folder}-{i}" if folder.casefold() in taken else folder)
    return names


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder, and rename it to `path` when the block ends.

    `path` is unchanged if the block raises or the process dies. Raises CannotWrite for any OSError,
    including those raised in the block.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise CannotWrite(path, error) from error


def cache_folder(kind: str) -> Path:
    """Return the cache folder for files of one kind, which can be recreated at any time.

    It is inside ``$GANYMEDE_CACHE``, by default ``ganymede`` in the user's cache folder.
    """
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("GANYMEDE_CACHE") or Path(home) / "ganymede") / kind
