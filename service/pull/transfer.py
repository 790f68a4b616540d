"""Downloads a file into a partial file, and continues where an earlier attempt ended.

The partial file ``.NAME.part`` only grows. Beside it is the validator of the remote file (its ETag
or date): if the remote file has changed, or the server cannot continue, the download starts again.
An interrupted download is tried again as long as attempts make progress.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from service.runtime.errors import UserError
from service.runtime.files import CannotWrite
from service.runtime.formatting import format_size

# Attempts without progress, and the pause before each: 0.5 s, 1 s, 2 s, 4 s.
_ATTEMPTS, _FIRST_PAUSE_S = 5, 0.5
# Called with the bytes that are complete, and the bytes in all if known.
Progress = Callable[[int, int | None], object]


class DownloadFailed(UserError):
    """A file cannot be downloaded."""

    exit_code: ClassVar[int] = 1


class Interrupted(Exception):
    """The connection ended or the server is busy; another attempt may succeed."""

    def __init__(self, reason: str, pause_s: float | None = None) -> None:
        super().__init__(reason)
        self.pause_s = pause_s


@dataclass(frozen=True)
class Stream:
    """The content of a remote file from byte `start` on. `total` is the size of the whole file."""

    start: int
    total: int | None
    validator: str | None
    # Raises Interrupted.
    chunks: Iterator[bytes]


class Source(Protocol):
    """A remote file."""

    def open(self, offset: int, validator: str | None) -> AbstractContextManager[Stream]:
        """Open the file at `offset` if it still has this validator, else at its beginning.

        Raises Interrupted and DownloadFailed.
        """
        ...


def download(
    source: Source,
    part: Path,
    max_bytes: int,
    progress: Progress = lambda *_: None,
) -> str | None:
    """Complete the partial file `part`, and return the validator of the remote file.

    Raises DownloadFailed and CannotWrite. The partial file is kept in both cases, so that a later
    call continues.
    """
    best, attempt = _size(part), 0
    while True:
        try:
            validator = _transfer(source, part, max_bytes, progress)
            _validator_file(part).unlink(missing_ok=True)
        except Interrupted as error:
            attempt = 0 if _size(part) > best else attempt + 1
            best = max(best, _size(part))
            if attempt >= _ATTEMPTS:
                raise DownloadFailed(
                    f"{source}: {error}; {format_size(_size(part))} are kept, and the same "
                    "command continues"
                ) from error
            pause = _FIRST_PAUSE_S * 2 ** max(attempt - 1, 0)
            time.sleep(pause if error.pause_s is None else error.pause_s)
        else:
            return validator


def is_unchanged(source: Source, size: int, validator: str | None) -> bool:
    """Return whether a remote file is still the one of a complete download.

    False if the server does not say so.
    """
    if validator is None:
        return False
    try:
        with source.open(size, validator) as stream:
            return stream.start == stream.total == size
    except Interrupted:
        return False


def _transfer(source: Source, part: Path, max_bytes: int, progress: Progress) -> str | None:
    """Download until the end of the file or of the connection. Raises Interrupted."""
    validator = _read_validator(part)
    # Without a validator, nothing shows whether the partial file is of the same remote file.
    offset = _size(part) if validator is not None else 0
    with source.open(offset, validator) as stream:
        if stream.total is not None:
            _assert_fits(source, stream.total, stream.start, part, max_bytes)
        size = stream.start
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
            _write_validator(part, stream.validator)
            with part.open("r+b" if stream.start else "wb") as file:
                file.seek(stream.start)
                file.truncate()
                for chunk in stream.chunks:
                    size += len(chunk)
                    if size > max_bytes:
                        raise _too_large(source, size, max_bytes)
                    file.write(chunk)
                    progress(size, stream.total)
        except OSError as error:
            raise CannotWrite(part, error) from error
        if stream.total is not None and size != stream.total:
            raise Interrupted(f"the connection ended at {size:,} of {stream.total:,} bytes")
        return stream.validator


def _assert_fits(source: Source, total: int, start: int, part: Path, max_bytes: int) -> None:
    """Raise DownloadFailed if a file exceeds the limit or the free disk space."""
    if total > max_bytes:
        raise _too_large(source, total, max_bytes)
    folder = next(each for each in part.parents if each.exists())
    free = shutil.disk_usage(folder).free
    if total - start > free:
        raise DownloadFailed(
            f"{source} needs {format_size(total - start)} in {part.parent}, where "
            f"{format_size(free)} are free; $GANYMEDE_CACHE selects another folder"
        )


def _too_large(source: Source, size: int, max_bytes: int) -> DownloadFailed:
    return DownloadFailed(
        f"{source} has at least {format_size(size)}; the limit is {format_size(max_bytes)} "
        "(--max-bytes)"
    )


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _validator_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.validator")


def _read_validator(part: Path) -> str | None:
    file = _validator_file(part)
    return file.read_text() if file.exists() and part.exists() else None


def _write_validator(part: Path, validator: str | None) -> None:
    if validator is None:
        _validator_file(part).unlink(missing_ok=True)
    else:
        _validator_file(part).write_text(validator)
