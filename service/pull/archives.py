"""Archives of models: ZIP and tar files, extracted without leaving their folder.

Names that lead out of the folder, links, devices and archives that expand beyond the limit are
refused. Nothing is extracted from a refused archive.
"""

from __future__ import annotations

import gzip
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, ClassVar

from service.runtime.errors import UserError, first_line
from service.runtime.files import replacing

_CHUNK = 2**20
_MAX_MEMBERS = 10_000
_DAMAGED = (
    gzip.BadGzipFile, zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError,
    RuntimeError, NotImplementedError, ValueError, struct.error, OSError,
)  # fmt: skip


class ArchiveError(UserError):
    """An archive is damaged, unsafe or too large."""

    exit_code: ClassVar[int] = 1


def member_names(path: Path) -> list[str]:
    """Return the names of the files in an archive; empty if the file is no archive.

    Raises ArchiveError for a damaged archive.
    """
    with _damage_of(path):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return [each.filename for each in archive.infolist() if not each.is_dir()]
        if tarfile.is_tarfile(path):
            with tarfile.open(path) as archive:
                return [each.name for each in _members(path, archive) if each.isfile()]
    return []


def extract(path: Path, folder: Path, max_bytes: int) -> None:
    """Extract an archive into an existing folder. Raises ArchiveError and CannotWrite."""
    with _damage_of(path):
        if zipfile.is_zipfile(path):
            _extract_zip(path, folder, max_bytes)
        else:
            _extract_tar(path, folder, max_bytes)


def extract_member(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, max_bytes: int
) -> None:
    """Extract one file of a ZIP archive to `target`. Raises ArchiveError and CannotWrite."""
    name = Path(archive.filename or "archive")
    _assert_size(name, member.file_size, max_bytes)
    with _damage_of(name), archive.open(member) as source:
        _copy(source, target, member.file_size)


def _extract_zip(path: Path, folder: Path, max_bytes: int) -> None:
    with zipfile.ZipFile(path) as archive:
        members = [each for each in archive.infolist() if not each.is_dir()]
        assert_safe(path, [each.filename for each in members])
        _assert_size(path, sum(each.file_size for each in members), max_bytes)
        for each in members:
            # The upper half of the attributes is the mode on Unix.
            if (each.external_attr >> 16) & 0o170000 == 0o120000:
                raise ArchiveError(f"{path}: {each.filename!r:.80} is a link, which is not allowed")
        for each in members:
            with archive.open(each) as source:
                _copy(source, folder / each.filename, each.file_size)


def _extract_tar(path: Path, folder: Path, max_bytes: int) -> None:
    with tarfile.open(path) as archive:
        members, size = [], 0
        for each in _members(path, archive):
            if not (each.isfile() or each.isdir()):
                raise ArchiveError(f"{path}: {each.name!r:.80} is a link or a device")
            members.append(each)
            size += each.size
            _assert_size(path, size, max_bytes)
        # To the end of the compressed data, where its checksum is.
        while archive.fileobj is not None and archive.fileobj.read(_CHUNK):
            pass
        files = [each for each in members if each.isfile()]
        assert_safe(path, [each.name for each in files])
        for each in files:
            source = archive.extractfile(each)
            assert source is not None  # noqa: S101 - for the type checker
            with source:
                _copy(source, folder / each.name, each.size)


def _members(path: Path, archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the members of a tar file. Raises ArchiveError as soon as there are too many."""
    for count, each in enumerate(archive, 1):
        if count > _MAX_MEMBERS:
            raise ArchiveError(f"{path} contains more than {_MAX_MEMBERS:,} files")
        yield each


def assert_safe(path: Path, names: list[str]) -> None:
    """Raise ArchiveError if a name leads out of the folder, or if there are too many."""
    if len(names) > _MAX_MEMBERS:
        raise ArchiveError(f"{path} contains {len(names):,} files; at most {_MAX_MEMBERS:,}")
    for name in names:
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\\" in name or ":" in parts[0]:
            raise ArchiveError(f"{path}: {name!r:.80} leads out of the folder of the archive")


def _assert_size(path: Path, size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise ArchiveError(
            f"{path} expands to {size:,} bytes; the limit is {max_bytes:,} (--max-bytes)"
        )


def _copy(source: IO[bytes], target: Path, size: int) -> None:
    """Copy a member. Raises ArchiveError if it has more bytes than it declares."""
    with replacing(target) as part, part.open("wb") as file:
        written = 0
        while chunk := _read(source):
            written += len(chunk)
            if written > size:
                raise ArchiveError(f"{target.name} has more bytes than its archive declares")
            file.write(chunk)


def _read(source: IO[bytes]) -> bytes:
    """Read from a member, whose errors must not look like those of the disk."""
    try:
        return source.read(_CHUNK)
    except OSError as error:
        raise ArchiveError(
            f"a member is damaged: {first_line(error)}; download it again"
        ) from error


@contextmanager
def _damage_of(path: Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGED as error:
        raise ArchiveError(f"{path} is damaged: {first_line(error)}; download it again") from error
