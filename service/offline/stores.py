"""Output folders of jobs: a local folder, or any URL that fsspec supports (``s3://``, ``gs://``).

Files are written atomically: locally by renaming a temporary file, in object stores because uploads
are atomic.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from fsspec.core import has_magic
from fsspec.implementations.local import LocalFileSystem

from service.runtime.errors import UserError

# The state of an unfinished job, within its output folder.
STATE_FOLDER = ".ganymede"
_TEMPORARY = f"{STATE_FOLDER}/writing"


class StoreError(UserError):
    """The output folder cannot be read or written."""


class DiskFull(StoreError):
    """The output folder has no space left, or its owner's quota is used up."""


class Store:
    """A folder. File names in it use slashes on every system. All methods raise StoreError."""

    def __init__(self, url: str) -> None:
        """Use the folder at `url`, a path or a URL, without creating it."""
        self.url = url
        try:
            system, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise StoreError(f"{url}: {str(error).splitlines()[0]}") from error
        self._fs: Any = system
        self._root = str(root).rstrip("/")
        self.local = Path(self._root) if isinstance(system, LocalFileSystem) else None
        if self.local is None:
            if has_magic(self._root):
                # Removing the state of a job would remove it in every folder that matches.
                raise StoreError(f"{url}: a folder in a store cannot have *, ? or [ in its name")
            # Listings are kept, and another process may have written since.
            system.invalidate_cache()

    def __reduce__(self) -> tuple[type[Store], tuple[str]]:
        return Store, (self.url if self.local is None else str(self.local),)

    def assert_writable(self) -> None:
        """Raise StoreError if nothing can be written. May create folders, but leaves no files."""
        name = f"{STATE_FOLDER}/probe-{os.getpid()}"
        self.write(name, b"x")
        self.remove(name)

    def names(self, folder: str = "") -> list[str]:
        """Return the sorted names of the entries of a folder; empty if it does not exist."""
        with self._store_errors(folder or "the folder"):
            try:
                paths = self._fs.ls(self._path(folder), detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return []
            return sorted(str(path).rstrip("/").rpartition("/")[2] for path in paths)

    def exists(self, name: str) -> bool:
        """True if the file exists."""
        with self._store_errors(name):
            return bool(self._fs.exists(self._path(name)))

    def read(self, name: str) -> bytes:
        """Return the content of a file. Also raises FileNotFoundError."""
        with self._store_errors(name):
            return bytes(self._fs.cat_file(self._path(name)))

    def write(self, name: str, content: bytes) -> None:
        """Write a file, replacing an existing one."""
        if self.local is None:
            with self._store_errors(name), self._missing_bucket(name):
                self._fs.pipe_file(self._path(name), content)
            return
        with self.new(name) as path:
            path.write_bytes(content)

    @contextmanager
    def new(self, name: str) -> Iterator[Path]:
        """Yield a temporary local path; its content becomes the file at the end of the context."""
        unique = f"{os.getpid()}-{threading.get_ident()}-{name.replace('/', '-')}"
        if self.local is None:
            with (
                tempfile.TemporaryDirectory(prefix="ganymede-") as folder,
                self._store_errors(name),
                self._missing_bucket(name),
            ):
                yield Path(folder) / unique
                self._fs.put_file(str(Path(folder) / unique), self._path(name))
            return
        temporary, final = self.local / _TEMPORARY / unique, self.local / name
        with self._store_errors(name):
            try:
                yield self._with_parent(temporary)
                try:
                    temporary.replace(final)
                except FileNotFoundError:
                    final.parent.mkdir(parents=True, exist_ok=True)
                    temporary.replace(final)
            finally:
                temporary.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """Remove a file if it exists."""
        with self._store_errors(name), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._path(name))

    def remove_folder(self, name: str) -> None:
        """Remove a folder with its content if it exists."""
        with self._store_errors(name), contextlib.suppress(FileNotFoundError):
            self._fs.rm(self._path(name), recursive=True)

    def clear_temporary(self) -> None:
        """Remove temporary files that a killed process left."""
        if self.local is not None:
            shutil.rmtree(self.local / _TEMPORARY, ignore_errors=True)

    def sync(self) -> None:
        """Flush written files to disk, so that they survive a power failure."""
        if self.local is not None:
            os.sync()

    def free_bytes(self) -> int | None:
        """Return the free space in bytes; None if unknown."""
        if self.local is None:
            return None
        paths = [self.local, *self.local.absolute().parents]
        existing = next(path for path in paths if path.exists())
        return shutil.disk_usage(existing).free

    def _with_parent(self, path: Path) -> Path:
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    @contextmanager
    def _missing_bucket(self, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise StoreError(f"{self.url}: {name}: the bucket does not exist") from error

    @contextmanager
    def _store_errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            kind = DiskFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else StoreError
            raise kind(f"{self.url}: {name}: {error.strerror or error}") from error
        except UserError:
            raise
        except Exception as error:
            if self.local is not None:
                raise
            # Remote file systems have exception types of their own.
            raise StoreError(f"{self.url}: {name}: {str(error).splitlines()[0]}") from error
