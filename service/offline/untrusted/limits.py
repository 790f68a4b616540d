"""Limits of the inputs of a job that a client of the service chooses.

Archives are listed and their images are decompressed one by one into memory; nothing is extracted
to the disk, so links and absolute names in an archive have no effect. What remains are archives
that are too large once they are open: a directory of millions of names, or images that decompress
to more than the machine has ("zip bombs", Fifield 2019).
"""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any, cast

from service.runtime.errors import UserError
from service.runtime.formatting import format_size

# Bytes that a small archive may decompress to, whatever its ratio.
_HARMLESS_BYTES = 64 * 2**20
# Bytes in a ZIP archive's directory: names of a few hundred characters for all images.
_DIRECTORY_BYTES_PER_FILE, _MIN_DIRECTORY_BYTES = 400, 2**16
_NESTED = (".zip", ".tar", ".tgz", ".gz", ".7z", ".rar")


class InputsRefused(UserError):
    """Inputs exceed a limit, or have a part that would be ignored silently."""


@dataclass(frozen=True)
class InputLimits:
    """What the inputs of one job may contain.

    Attributes:
        files: images, and files in an archive.
        file_bytes: bytes of an image file; a larger one is reported and has no output.
        total_bytes: bytes of all files of an archive after decompression.
        ratio: total bytes of an archive by its size; it applies beyond 64 MiB.
    """

    files: int = 100_000
    file_bytes: int = 256 * 2**20
    total_bytes: int = 64 * 2**30
    ratio: int = 200

    def open_zip(self, file: IO[bytes]) -> zipfile.ZipFile:
        """Open a ZIP archive, and check its directory. Raises InputsRefused and BadZipFile."""
        most = max(_MIN_DIRECTORY_BYTES, self.files * _DIRECTORY_BYTES_PER_FILE)
        archive = zipfile.ZipFile(cast("IO[bytes]", _BoundedReads(file, most)))
        infos = [info for info in archive.infolist() if not info.is_dir()]
        self.assert_count(len(infos))
        size = sum(info.file_size for info in infos)
        file.seek(0, 2)
        if size > self.total_bytes or size > max(_HARMLESS_BYTES, self.ratio * file.tell()):
            raise InputsRefused(
                f"the archive has {format_size(file.tell())} and would decompress to "
                f"{format_size(size)}; expected at most {format_size(self.total_bytes)}, and "
                f"{self.ratio} times its size"
            )
        _assert_complete([info.filename for info in infos])
        return archive

    def problem(self, member: zipfile.ZipInfo) -> str | None:
        """Return why a member of a ZIP archive cannot be read safely, or None."""
        # `zipfile` does not bound what it decompresses at once with the other methods.
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            return "its compression is not supported: expected deflate"
        return None

    def bounded_headers(self, file: IO[bytes]) -> IO[bytes]:
        """Return a tar file whose headers are refused if they are large, as names can be.

        Reading a header then raises InputsRefused.
        """
        return cast("IO[bytes]", _BoundedReads(file, _MIN_DIRECTORY_BYTES))

    def assert_count(self, files: int) -> None:
        """Raise InputsRefused for too many files."""
        if files > self.files:
            raise InputsRefused(f"expected at most {self.files:,} files")


def _assert_complete(names: Sequence[str]) -> None:
    """Raise InputsRefused for files of an archive that would be ignored or replaced silently."""
    for name in names:
        if PurePosixPath(name).suffix.lower() in _NESTED:
            raise InputsRefused(f"archives within an archive are not read: {name[:100]!r}")
    # Some writers on Windows separate folders by a backslash.
    counts = Counter(name.replace("\\", "/") for name in names)
    repeated = next((name for name, count in counts.items() if count > 1), None)
    if repeated is not None:
        raise InputsRefused(f"the archive has several files with the name {repeated[:100]!r}")


class _BoundedReads:
    """A file that refuses to be read in large parts, as a directory or a header is read."""

    def __init__(self, file: IO[bytes], most: int) -> None:
        self._file, self._most = file, most

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes. Raises InputsRefused."""
        if size < 0:
            # To the end, which is only as far as a comment can be long.
            content = self._file.read(self._most + 1)
        elif size <= self._most:
            return self._file.read(size)
        else:
            content = bytes(0)
        if size >= 0 or len(content) > self._most:
            raise InputsRefused(
                "the directory of the archive or a header of a file has more than "
                f"{format_size(self._most)}"
            )
        return content

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
