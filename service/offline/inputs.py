"""The input images of a job for an image-to-image model.

Inputs are image files in a folder and its subfolders, or in tar files (WebDataset) and ZIP
archives; the folder is local or a URL that fsspec supports. They are sorted by name, so that image
i is the same in every process. In local folders, links are followed.

An input that cannot be read keeps its place: the job reports it and does the rest.
"""

from __future__ import annotations

import hashlib
import logging
import lzma
import os
import re
import stat
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from service.offline.stores import StoreError
from service.offline.untrusted.limits import InputLimits
from service.offline.untrusted.redirects import storage_options
from service.runtime.errors import UserError, first_line
from service.runtime.files import open_regular
from service.runtime.formatting import format_size
from service.runtime.images.file_formats import readable_suffixes

log = logging.getLogger("ganymede.offline")

# What the libraries raise for damaged archives: IndexError for a member without a name, and
# RecursionError for a long chain of headers, each of which extends the next one.
_DAMAGED = (IndexError, RecursionError)
_ARCHIVE_ERRORS = (tarfile.TarError, zipfile.BadZipFile, NotImplementedError, *_DAMAGED)
# Errors of a member of a ZIP archive that is damaged, encrypted or compressed in an unknown way.
_MEMBER_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,
    KeyError,
)
_ENCRYPTED = 0x1
# A member is decompressed into memory, and a small archive can claim to contain terabytes.
_MAX_MEMBER_BYTES = 2**31


class InputError(UserError):
    """The inputs cannot be listed, or do not contain images."""


class UnreadableInput(UserError):
    """One input cannot be read; others may be readable."""


@dataclass(frozen=True)
class _Location:
    """A part of a file: `size` bytes, starting at `offset`. None is the rest of the file.

    With `member`, it is this member of a ZIP archive, of `size` bytes. `problem` is the reason why
    it cannot be read, if that is known.
    """

    path: str
    offset: int = 0
    size: int | None = None
    member: str | None = None
    problem: str | None = None


class Inputs:
    """The images in a folder or in archives, by number and by name."""

    def __init__(
        self, url: str, *, label: str | None = None, limits: InputLimits | None = None
    ) -> None:
        """List the images at `url`, which messages call `label`.

        `limits` are those of inputs that a client of the service chooses: redirects are not
        followed then. Raises InputError, and InputsRefused if a limit is exceeded.
        """
        self.url = label or url
        self._limits = limits
        self._archives: dict[str, zipfile.ZipFile] = {}
        self._opening = threading.Lock()
        # The name of the only file, an archive, as the first folder of all names.
        self._archive_folder = ""
        try:
            options = {} if limits is None else storage_options(url)
            self._fs, root = fsspec.core.url_to_fs(url, **options)
            self._is_local = isinstance(self._fs, LocalFileSystem)
            if not self._is_local:
                # Listings are kept, and another process may have written since.
                self._fs.invalidate_cache()
            locations = self._list(str(root).rstrip("/"))
        except UserError:
            raise
        except (OSError, ValueError, ImportError, *_ARCHIVE_ERRORS) as error:
            raise InputError(f"{self.url} cannot be read: {_reason(error)}") from error
        except Exception as error:
            if self._is_local:
                raise
            # Remote file systems have exception types of their own.
            raise InputError(f"{self.url} cannot be read: {_reason(error)}") from error
        if not locations:
            raise InputError(
                f"{self.url} contains no images: expected files with the suffix of an image "
                "format, or tar files or ZIP archives of them"
            )
        if limits is not None:
            limits.assert_count(len(locations))
            locations = {name: _bounded(each, limits) for name, each in locations.items()}
        locations = dict(sorted(locations.items()))
        self.names = tuple(map(_as_text, locations))
        self._locations: list[_Location] = list(locations.values())
        self._numbers = {_match_key(name): i for i, name in enumerate(self.names)}

    def __len__(self) -> int:
        return len(self.names)

    @property
    def fingerprint(self) -> str:
        """A hash of the names and sizes."""
        digest = hashlib.sha256()
        for name, location in zip(self.names, self._locations, strict=True):
            digest.update(f"{name}\0{location.size}\0".encode())
        return digest.hexdigest()[:16]

    def read(self, number: int) -> bytes:
        """Return the content of an image file.

        Raises UnreadableInput, or StoreError if the store has failed, so that later inputs may
        fail, too.
        """
        location = self._locations[number]
        if location.problem is not None:
            raise UnreadableInput(location.problem)
        end = None if location.size is None else location.offset + location.size
        try:
            if location.member is not None:
                return self._read_member(location)
            if self._is_local:
                with open_regular(Path(location.path)) as file:
                    file.seek(location.offset)
                    return file.read(-1 if location.size is None else location.size)
            return bytes(self._fs.cat_file(location.path, start=location.offset or None, end=end))
        except OSError as error:
            reason = error.strerror or str(error)
            if self._is_local or isinstance(error, FileNotFoundError | PermissionError):
                raise UnreadableInput(reason) from error
            raise StoreError(f"{self.url}: {self.names[number]}: {reason}") from error

    def _read_member(self, location: _Location) -> bytes:
        """Return a member of a ZIP archive. Raises OSError and UnreadableInput."""
        path = location.path
        with self._opening:
            if path not in self._archives:
                self._archives[path] = zipfile.ZipFile(self._open(path))
        try:
            with self._archives[path].open(location.member or "") as member:
                # Without a size, up to 2 GiB are decompressed before they are cut to the size in
                # the directory, which may be wrong.
                return member.read(location.size or 1)
        except _MEMBER_ERRORS as error:
            raise UnreadableInput(str(error)) from error

    @property
    def _is_web(self) -> bool:
        return "http" in self._fs.protocol

    def _open(self, path: str) -> IO[bytes]:
        """Open a file. Raises OSError."""
        if self._is_local:
            return open_regular(Path(path))
        return cast("IO[bytes]", self._fs.open(path, "rb"))

    def number_of(self, name: str) -> int | None:
        """Return the number of the image with this name, ignoring the extension, or None."""
        return self._numbers.get(_match_key(name))

    def number_matching(self, others: Inputs, number: int) -> int | None:
        """Return the number of the image with the name of image `number` of `others`, or None.

        If `others` or these images are one archive, its own name does not matter: the mask of
        ``photos.zip/a.png`` is ``masks.zip/a.png``.
        """
        name = others.names[number]
        found = self.number_of(name)
        if found is not None:
            return found
        return self.number_of(self._archive_folder + name.removeprefix(others._archive_folder))

    def close(self) -> None:
        """Close the archives. They are opened again when they are read."""
        with self._opening:
            for archive in self._archives.values():
                archive.close()
            self._archives.clear()

    def stems(self) -> list[str]:
        """Return an output path without extension for each image.

        The paths are relative, stay within their folder, and are unique, also as WebDataset keys
        (see `key_of`).
        """
        stems: list[str] = []
        taken: set[str] = set()
        for name in self.names:
            path = PurePosixPath(name)
            parts = [_safe_name(part) for part in path.parent.parts if part not in ("/", "..", ".")]
            folder = "/".join(parts) or "images"
            stem = f"{folder}/{_safe_name(path.stem)}"
            while key_of(stem).casefold() in taken:
                stem += "-" + (path.suffix[1:].lower() or "x")
            taken.add(key_of(stem).casefold())
            stems.append(stem)
        return stems

    def _list(self, root: str) -> dict[str, _Location]:
        if self._limits is not None and self._is_web:
            if archive_kind(root) is None:
                # The listing of a folder would be read from the links of a page.
                raise InputError(f"{self.url}: expected a ZIP archive or tar file on a web server")
            # Raises the error that the next line would take for a missing file.
            self._fs.info(root)
        is_single_file = self._fs.isfile(root)
        locations: dict[str, _Location] = {}
        archives: dict[str, _Location] = {}
        for location in self._files(root, is_single_file=is_single_file):
            path = location.path
            name = PurePosixPath(path).name if is_single_file else path[len(root) :].lstrip("/")
            if any(part.startswith(".") for part in PurePosixPath(name).parts):
                continue
            if is_image_name(name) or location.problem is not None:
                locations[name] = location
            elif archive_kind(name):
                archives[name] = location
        for name, location in archives.items():
            kind = archive_kind(name) or ""
            list_members = self._list_zip if kind == ".zip" else self._list_tar
            try:
                members = list_members(location.path)
            except (OSError, *_ARCHIVE_ERRORS) as error:
                if is_single_file:
                    raise
                problem = f"not a readable {kind[1:]} file: {_reason(error)}"
                locations[name] = replace(location, problem=problem)
                continue
            folder = name[: -len(kind)]
            if any(f"{folder}/{member}" in locations for member in members):
                folder = name  # There is a folder or another archive of the same name.
            if is_single_file:
                self._archive_folder = f"{folder}/"
            locations |= {f"{folder}/{member}": each for member, each in members.items()}
        return locations

    def _files(self, root: str, *, is_single_file: bool) -> Iterator[_Location]:
        """Yield the files in a folder and its subfolders, or the only one."""
        if self._is_local and not is_single_file and self._fs.exists(root):
            yield from _local_files(root)
            return
        files: dict[str, dict[str, Any]] = self._fs.find(root, detail=True)
        for path, details in files.items():
            # Web servers do not list sizes.
            yield _Location(path, size=details.get("size"))

    def _list_tar(self, path: str) -> dict[str, _Location]:
        with self._open(path) as file, self._opened_tar(file) as archive:
            locations = {}
            for i, member in enumerate(archive):
                if self._limits is not None:
                    self._limits.assert_count(i + 1)
                if member.isfile() and is_image_name(member.name):
                    locations[member.name] = _Location(path, member.offset_data, member.size)
            return locations

    def _opened_tar(self, file: IO[bytes]) -> tarfile.TarFile:
        bounded = file if self._limits is None else self._limits.bounded_headers(file)
        return tarfile.open(fileobj=bounded, mode="r:")

    def _opened_zip(self, file: IO[bytes]) -> zipfile.ZipFile:
        return zipfile.ZipFile(file) if self._limits is None else self._limits.open_zip(file)

    def _list_zip(self, path: str) -> dict[str, _Location]:
        with self._open(path) as file, self._opened_zip(file) as archive:
            # Some writers on Windows separate folders by a backslash.
            members = {info.filename.replace("\\", "/"): info for info in archive.infolist()}
        locations = {}
        for name, info in members.items():
            if not is_image_name(name) or name.startswith("__MACOSX/"):
                continue
            problem = "it is encrypted" if info.flag_bits & _ENCRYPTED else None
            if info.file_size > _MAX_MEMBER_BYTES:
                problem = "it is larger than 2 GiB"
            if self._limits is not None:
                problem = problem or self._limits.problem(info)
            locations[name] = _Location(path, 0, info.file_size, info.filename, problem)
        return locations


def _bounded(location: _Location, limits: InputLimits) -> _Location:
    """Return a location, with a problem if the file is too large."""
    if location.size is None or location.size <= limits.file_bytes:
        return location
    return replace(location, problem=f"it is larger than {format_size(limits.file_bytes)}")


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError) and error.strerror is None:
        # fsspec names the file only.
        return "it does not exist, or the service may not read it"
    if isinstance(error, _DAMAGED):
        return "it is damaged"
    return getattr(error, "strerror", None) or first_line(error)


def _local_files(
    folder: str, ancestors: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[_Location]:
    """Yield the files below a local folder. Links are followed, except to a folder above.

    What cannot be read has a problem: folders, and files and links with the name of an input.
    Raises OSError if the first folder cannot be listed.
    """
    ancestors |= {_identity(os.stat(folder))}  # noqa: PTH116 - fsspec's paths are text
    with os.scandir(folder) as listing:
        entries = sorted(listing, key=lambda entry: entry.name)
    for entry in entries:
        if entry.name.startswith("."):
            continue
        is_input = is_image_name(entry.name) or archive_kind(entry.name) is not None
        try:
            details = entry.stat()
            if not stat.S_ISDIR(details.st_mode):
                regular = stat.S_ISREG(details.st_mode)
                if regular or is_input:
                    problem = None if regular else "not a regular file"
                    yield _Location(entry.path, size=details.st_size, problem=problem)
                continue
            if _identity(details) in ancestors:
                log.warning(
                    "%s is a link to a folder above it and is not followed", _as_text(entry.path)
                )
                continue
            below = list(_local_files(entry.path, ancestors))
            yield from below
            if is_input and not below:
                yield _Location(entry.path, size=0, problem="it is a folder")
        except OSError as error:
            if is_input or not entry.is_symlink():
                yield _Location(entry.path, size=0, problem=error.strerror or str(error))


def _identity(details: os.stat_result) -> tuple[int, int]:
    """Return what identifies a file on this machine."""
    return details.st_dev, details.st_ino


def key_of(stem: str) -> str:
    """Return the WebDataset key for a path without extension.

    A key ends at the first dot, so dots in the file name are replaced.
    """
    folder, slash, name = stem.rpartition("/")
    return f"{folder}{slash}{name.replace('.', '-')}"


@lru_cache(maxsize=8)
def open_inputs(url: str) -> Inputs:
    """Return the images at `url`, listed once per process. Raises InputError."""
    return Inputs(url)


@dataclass(frozen=True)
class JobInputs:
    """The input images of a job and their masks.

    `max_pixels` is the size of an image that is decoded; None means the default.
    """

    images: Inputs
    masks: Inputs | None = None
    max_pixels: int | None = None

    @classmethod
    def open(cls, url: str, mask: str | None) -> JobInputs:
        """Return the images at `url` and the masks at `mask`. Raises InputError."""
        return cls(open_inputs(url), None if mask is None else open_inputs(mask))

    @property
    def fingerprint(self) -> str:
        """A hash of the names and sizes of the images, and one of those of the masks."""
        parts = [self.images, self.masks]
        return "-".join(each.fingerprint for each in parts if each is not None)

    def without_mask(self) -> list[str]:
        """Return the names of the images that have no mask."""
        images, masks = self.images, self.masks
        return [
            name
            for i, name in enumerate(images.names)
            if masks is None or masks.number_matching(images, i) is None
        ]

    def read_mask(self, number: int) -> bytes | None:
        """Return the mask of an image, or None. Raises as `Inputs.read`."""
        if self.masks is None:
            return None
        found = self.masks.number_matching(self.images, number)
        return None if found is None else self.masks.read(found)

    def close(self) -> None:
        """Close the archives."""
        for each in (self.images, self.masks):
            if each is not None:
                each.close()


def is_image_name(name: str) -> bool:
    """Whether a file has the suffix of a format that can be decoded."""
    return PurePosixPath(name).suffix.lower() in readable_suffixes()


def archive_kind(name: str) -> str | None:
    """Return ".tar" or ".zip" if a file has this suffix."""
    return next((suffix for suffix in (".tar", ".zip") if name.lower().endswith(suffix)), None)


def _as_text(name: str) -> str:
    r"""Return a file name that can be encoded: bytes that are not UTF-8 become ``\xff``."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _match_key(name: str) -> str:
    return str(PurePosixPath(name).with_suffix("")).casefold()


def safe_file_name(name: str) -> str:
    """Return the last part of a path that a client names, as the name of a file on this machine."""
    path = PurePosixPath(name.replace("\\", "/"))
    return _safe_name(path.stem) + re.sub(r"[^\w.]+", "", path.suffix)[:10]


def _safe_name(part: str) -> str:
    return re.sub(r"[^\w.-]+", "-", part).strip(".-")[:100] or "image"
