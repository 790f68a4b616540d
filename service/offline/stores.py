"""Where a job writes: a folder of this machine, or of whatever fsspec knows (``s3://``, ``gs://``).

A file appears whole or not at all: here by renaming it, and in an object store because that is
what its uploads do.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from service.runtime.errors import UserError

# What a job keeps beside its output until it is done.
STATE_FOLDER = ".ganymede"
_TEMPORARY = f"{STATE_FOLDER}/writing"


class StoreError(UserError):
    """The output cannot be written or read where it is."""


class Store:
    """A folder. Names within it have slashes, whatever the system. Raises StoreError."""

    def __init__(self, url: str) -> None:
        """Look at the folder at `url`, a path or a URL, and make nothing yet."""
        self.url = url
        try:
            system, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise StoreError(f"{url}: {str(error).splitlines()[0]}") from error
        self._fs: Any = system
        self._root = str(root).rstrip("/")
        self.local = Path(self._root) if isinstance(system, LocalFileSystem) else None

    def __reduce__(self) -> tuple[type[Store], tuple[str]]:
        return Store, (self.url if self.local is None else str(self.local),)

    def assert_writable(self) -> None:
        """Raise StoreError when nothing can be written. Leaves nothing behind but folders."""
        name = f"{STATE_FOLDER}/probe-{os.getpid()}"
        self.write(name, b"x")
        self.remove(name)

    def names(self, folder: str = "") -> list[str]:
        """Return the names of all that lies directly in a folder; none where it is not there."""
        with self._said(folder or "the folder"):
            try:
                found = self._fs.ls(self._path(folder), detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return []
            return sorted(str(path).rstrip("/").rpartition("/")[2] for path in found)

    def exists(self, name: str) -> bool:
        """Tell whether there is a file of that name."""
        with self._said(name):
            return bool(self._fs.exists(self._path(name)))

    def read(self, name: str) -> bytes:
        """Return a file's bytes. Raises FileNotFoundError too."""
        with self._said(name):
            return bytes(self._fs.cat_file(self._path(name)))

    def write(self, name: str, content: bytes) -> None:
        """Write a file, in place of any before it."""
        if self.local is None:
            with self._said(name):
                self._fs.pipe_file(self._path(name), content)
            return
        with self.new(name) as path:
            path.write_bytes(content)

    @contextmanager
    def new(self, name: str) -> Iterator[Path]:
        """Yield a path here, unique to this thread; what is there at the end becomes the file."""
        unique = f"{os.getpid()}-{threading.get_ident()}-{name.replace('/', '-')}"
        if self.local is None:
            with tempfile.TemporaryDirectory(prefix="ganymede-") as folder, self._said(name):
                yield Path(folder) / unique
                self._fs.put_file(str(Path(folder) / unique), self._path(name))
            return
        temporary, final = self.local / _TEMPORARY / unique, self.local / name
        with self._said(name):
            try:
                yield self._made(temporary)
                try:
                    temporary.replace(final)
                except FileNotFoundError:
                    final.parent.mkdir(parents=True, exist_ok=True)
                    temporary.replace(final)
            finally:
                temporary.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with self._said(name), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._path(name))

    def remove_folder(self, name: str) -> None:
        """Remove a folder and all that is in it, if it is there."""
        with self._said(name), contextlib.suppress(FileNotFoundError):
            self._fs.rm(self._path(name), recursive=True)

    def clear_temporary(self) -> None:
        """Remove what a process that was killed had begun to write."""
        if self.local is not None:
            shutil.rmtree(self.local / _TEMPORARY, ignore_errors=True)

    def settle(self) -> None:
        """Return when all that was written would outlive a loss of power."""
        if self.local is not None:
            os.sync()

    def free_bytes(self) -> int | None:
        """Return how much more can be written; None where nobody knows."""
        if self.local is None:
            return None
        there = next(path for path in [self.local, *self.local.absolute().parents] if path.exists())
        return shutil.disk_usage(there).free

    def _made(self, path: Path) -> Path:
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    @contextmanager
    def _said(self, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreError(f"{self.url}: {name}: {error.strerror or error}") from error
        except UserError:
            raise
        except Exception as error:
            if self.local is not None:
                raise
            # The stores of others have errors of their own.
            raise StoreError(f"{self.url}: {name}: {str(error).splitlines()[0]}") from error
