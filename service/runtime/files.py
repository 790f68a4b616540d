"""Atomic file replacement, and the location of caches."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from service.runtime.errors import UserError


class CannotWrite(UserError):
    """A file cannot be written, for example because the disk is full or access is denied."""

    exit_code: ClassVar[int] = 1

    def __init__(self, path: Path, error: OSError) -> None:
        # Errors that Pillow raises have no errno, and therefore no strerror.
        super().__init__(f"{path} cannot be written: {error.strerror or error}")


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
