"""The input images of a job for an image-to-image model.

Inputs are image files in a folder and its subfolders, or WebDataset tar files; the folder is local
or a URL that fsspec supports. They are sorted by name, so that image i is the same in every
process.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

import fsspec

from service.offline.stores import StoreError
from service.runtime.errors import UserError
from service.runtime.images.file_formats import readable_suffixes


class InputError(UserError):
    """The inputs cannot be listed, or do not contain images."""


@dataclass(frozen=True)
class _Location:
    """A part of a file: `size` bytes, starting at `offset`. None is the rest of the file."""

    path: str
    offset: int = 0
    size: int | None = None


class Inputs:
    """The images in a folder or in tar files, by number and by name."""

    def __init__(self, url: str) -> None:
        """List the images at `url`. Raises InputError."""
        self.url = url
        try:
            self._fs, root = fsspec.core.url_to_fs(url)
            locations = self._list(str(root).rstrip("/"))
        except (OSError, ValueError, ImportError, tarfile.TarError) as error:
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            raise InputError(f"{url} cannot be read: {reason}") from error
        if not locations:
            raise InputError(
                f"{url} contains no images: expected files with the suffix of an image format, or "
                "tar files of them"
            )
        locations = dict(sorted(locations.items()))
        self.names = tuple(locations)
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
        """Return the content of an image file. Raises StoreError."""
        location = self._locations[number]
        end = None if location.size is None else location.offset + location.size
        try:
            return bytes(self._fs.cat_file(location.path, start=location.offset or None, end=end))
        except OSError as error:
            reason = error.strerror or str(error)
            raise StoreError(f"{self.url}: {self.names[number]}: {reason}") from error

    def number_of(self, name: str) -> int | None:
        """Return the number of the image with this name, ignoring the extension, or None."""
        return self._numbers.get(_match_key(name))

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
        files: dict[str, dict[str, Any]] = self._fs.find(root, detail=True)
        is_single_file = self._fs.isfile(root)
        locations: dict[str, _Location] = {}
        for path, details in files.items():
            name = PurePosixPath(path).name if is_single_file else path[len(root) :].lstrip("/")
            if any(part.startswith(".") for part in PurePosixPath(name).parts):
                continue
            if is_image_name(name):
                locations[name] = _Location(path, size=int(details["size"]))
            elif name.lower().endswith(".tar"):
                locations |= self._list_tar(path, name.removesuffix(".tar"))
        return locations

    def _list_tar(self, path: str, name: str) -> dict[str, _Location]:
        with self._fs.open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            return {
                f"{name}/{member.name}": _Location(path, member.offset_data, member.size)
                for member in archive
                if member.isfile() and is_image_name(member.name)
            }


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


def is_image_name(name: str) -> bool:
    """Whether a file has the suffix of a format that can be decoded."""
    return PurePosixPath(name).suffix.lower() in readable_suffixes()


def _match_key(name: str) -> str:
    return str(PurePosixPath(name).with_suffix("")).casefold()


def _safe_name(part: str) -> str:
    return re.sub(r"[^\w.-]+", "-", part).strip(".-")[:100] or "image"
