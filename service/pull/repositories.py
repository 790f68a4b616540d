"""Model repositories in object stores, on the hub and in archives, for `ganymede serve`.

What is served must not change by itself, so that an address is pinned: by a commit of the hub
(``hf://owner/name@COMMIT``), or by a digest (``#sha256=…``), of an archive's bytes or of a folder's
listing: the lines ``SHA-256  PATH`` that `sha256sum` prints for its files, sorted by path. A pinned
repository in the cache is used without asking its server again.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path, PurePosixPath

from service.pull import archives, hub, object_stores
from service.pull.cache import Fetching, LocalFile, RemoteFile, fetch, locked
from service.pull.checksums import Checksum, ChecksumMismatch, Kind
from service.pull.locations import ARCHIVES, OBJECT_STORES, Location, LocationError
from service.pull.model_folders import contains_models, find_models
from service.pull.transfer import DownloadFailed
from service.runtime.errors import UserError
from service.runtime.files import CannotWrite, cache_folder
from service.runtime.formatting import format_size
from service.runtime.models.manifest import file_sha256, read_manifest


def fetch_repository(location: Location, fetching: Fetching) -> Path:
    """Return a local copy of a model repository, with folders NAME/VERSION.

    Raises LocationError for an address that is not pinned, DownloadFailed, ChecksumMismatch,
    CannotWrite, and UserError if it contains no models.
    """
    folder = cache_folder("repositories") / _pin(location)
    # Without the lock, because the cache may be read-only once it has the repository.
    if not _is_complete(folder):
        # Servers that start together must not replace what the first of them has begun to load.
        with locked(folder.with_name(f"{folder.name}.lock"), fetching.report):
            if not _is_complete(folder):
                return _fetch_to(folder, location, fetching)
    fetching.report(f"{location} is in the cache: {folder}")
    return folder


def _is_complete(folder: Path) -> bool:
    """Return whether a repository is in the cache, undamaged."""
    return folder.is_dir() and _listing_of(folder) == _stated(folder)


def _fetch_to(folder: Path, location: Location, fetching: Fetching) -> Path:
    fetching.report(f"fetching {location}")
    with tempfile.TemporaryDirectory(prefix="ganymede-") as unpacked:
        root = _fetch(location, fetching, Path(unpacked))
        models = list(find_models(root))
        if not models:
            raise UserError(f"{location} contains no model folders (no model.json)")
        _copy(models, folder)
    fetching.report(f"verified {location}: {len(models)} model versions in {folder}")
    return folder


def _fetch(location: Location, fetching: Fetching, unpacked: Path) -> Path:
    """Fetch and verify the files of a repository, and return their folder."""
    if not location.address.endswith(ARCHIVES):
        copy_folder(location, unpacked, fetching)
        return unpacked
    (file,) = fetch([RemoteFile(location)], fetching)
    if not contains_models(archives.member_names(file.path)):
        raise UserError(f"{location} contains no model folders (no model.json)")
    archives.extract(file.path, unpacked, fetching.max_bytes)
    return unpacked


def copy_folder(location: Location, folder: Path, fetching: Fetching) -> None:
    """Copy the files of a folder in a store to an existing folder.

    Raises DownloadFailed, ChecksumMismatch and CannotWrite.
    """
    files, local = _fetch_files(location, fetching)
    digest = _listing(files, local)
    if location.checksum is not None and digest != location.checksum.value:
        raise ChecksumMismatch(
            f"{location} has the digest sha256:{digest}, expected {location.checksum}; nothing of "
            "it is used"
        )
    for file, each in zip(files, local, strict=True):
        target = folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(each.path)


def _fetch_files(
    location: Location, fetching: Fetching
) -> tuple[list[RemoteFile], list[LocalFile]]:
    """Fetch the files of a folder in a store. Raises DownloadFailed."""
    files = _files(location)
    if not files:
        raise DownloadFailed(f"{location} contains no files")
    size = sum(file.size or 0 for file in files)
    if size > fetching.max_bytes:
        raise DownloadFailed(
            f"{location} has {format_size(size)}; the limit is {format_size(fetching.max_bytes)} "
            "(--max-bytes)"
        )
    return files, fetch(files, fetching)


def _listing(files: list[RemoteFile], local: list[LocalFile]) -> str:
    return listing_digest({file.path: each.sha256 for file, each in zip(files, local, strict=True)})


def listing_digest(files: dict[str, str]) -> str:
    """Return the digest of a folder from the SHA-256 of its files by path."""
    lines = (f"{sha256}  {path}\n" for path, sha256 in sorted(files.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _files(location: Location) -> list[RemoteFile]:
    """Return the files of a folder. Raises DownloadFailed."""
    if location.scheme == "hf":
        path = location.hub
        root = f"hf://{path.repo}@{path.revision}/{path.path}".rstrip("/")
        found = [
            RemoteFile(Location(f"{root}/{each.path}"), each.checksum, each.size, each.path)
            for each in hub.list_files(path)
        ]
    elif location.scheme in OBJECT_STORES:
        root = location.address.rstrip("/")
        found = [
            RemoteFile(Location(f"{root}/{name}"), None, size, name)
            for name, size in object_stores.list_files(location.address).items()
        ]
    else:
        raise LocationError(
            f"{location} is not an archive: expected an address that ends with "
            f"{', '.join(ARCHIVES)}"
        )
    shown = [file for file in found if not _is_hidden(file.path)]
    archives.assert_safe(Path(str(location)), [file.path for file in shown])
    return sorted(shown, key=lambda file: file.path)


def _is_hidden(path: str) -> bool:
    """Return whether a path has a part with a leading dot, such as .gitattributes."""
    return any(part.startswith(".") and part != ".." for part in PurePosixPath(path).parts)


def _pin(location: Location) -> str:
    """Return a name for the pinned content. Raises LocationError if it is not pinned."""
    if location.checksum is not None:
        if location.checksum.kind is not Kind.SHA256:
            raise LocationError(f"{location}: expected #sha256=DIGITS, got {location.checksum}")
        return location.checksum.value
    if location.scheme == "hf" and location.hub.is_pinned:
        return hashlib.sha256(location.address.encode()).hexdigest()
    commit = " or the commit (hf://OWNER/NAME@COMMIT)" if location.scheme == "hf" else ""
    raise LocationError(
        f"--models: {location} is not pinned, so it could change: add #sha256=DIGITS{commit}; "
        f"ganymede pull {location} --digest prints the digest"
    )


def current_digest(location: Location, fetching: Fetching) -> Checksum:
    """Fetch an archive or a folder, and return the digest that pins it.

    Raises DownloadFailed and CannotWrite.
    """
    if location.address.endswith(ARCHIVES):
        (file,) = fetch([RemoteFile(location)], fetching)
        return Checksum(Kind.SHA256, file.sha256)
    return Checksum(Kind.SHA256, _listing(*_fetch_files(location, fetching)))


def _copy(models: list[Path], folder: Path) -> None:
    """Copy model folders to NAME/VERSION below `folder`. Raises CannotWrite."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder.parent))
        try:
            for model in models:
                manifest = read_manifest(model)
                target = part / manifest.name / manifest.version
                target.mkdir(parents=True)
                for file in model.iterdir():
                    if file.is_file():
                        shutil.copyfile(file, target / file.name)
            _listing_file(folder).write_text(_listing_of(part))
            if folder.exists():  # Damaged.
                shutil.rmtree(folder)
            part.chmod(0o755)
            part.rename(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise CannotWrite(folder, error) from error


def _listing_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.sha256")


def _stated(folder: Path) -> str:
    try:
        return _listing_file(folder).read_text()
    except OSError:
        return ""


def _listing_of(folder: Path) -> str:
    """Return the digest of a folder in the cache."""
    files = {
        path.relative_to(folder).as_posix(): file_sha256(path)
        for path in folder.rglob("*")
        if path.is_file()
    }
    return listing_digest(files)
