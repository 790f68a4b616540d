"""Files that are whole or not there, and where the ones that can be made again are kept."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from service.runtime.errors import UserError


class CannotWrite(UserError):
    """A file cannot be written where it was wanted: the disk is full, or nobody may write there."""

    exit_code: ClassVar[int] = 1

    def __init__(self, path: Path, error: OSError) -> None:
        # Pillow's errors have no number, and then no words of the system's.
        super().__init__(f"{path} cannot be written: {error.strerror or error}")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what is written there becomes `path` at the end.

    When the block raises, or the process dies in it, `path` stays as it was. Raises CannotWrite for
    an OSError of the block's too.
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
    """Return where what can be made again is kept, a folder for each kind of it.

    ``$GANYMEDE_CACHE``, else ``ganymede`` in the user's cache.
    """
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("GANYMEDE_CACHE") or Path(home) / "ganymede") / kind
