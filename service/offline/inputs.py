"""The pictures that go into a job, for models that make pictures of pictures.

They lie in a folder, with folders in it or not, or in tar files as WebDataset has them; here or
wherever fsspec reads. Their order is that of their names, and stays so: picture i is the same one
in every process.
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

_PICTURES = (".png", ".jpg", ".jpeg", ".webp")


class InputError(UserError):
    """There are no pictures that could go in."""


@dataclass(frozen=True)
class _Place:
    """A file, or a part of one: from `offset` on `size` bytes, or all of it."""

    path: str
    offset: int = 0
    size: int | None = None


class Inputs:
    """The pictures in a folder or in tar files, by number and by name."""

    def __init__(self, url: str) -> None:
        """List the pictures at `url`. Raises InputError where there are none."""
        self.url = url
        try:
            self._fs, root = fsspec.core.url_to_fs(url)
            found = self._listed(str(root).rstrip("/"))
        except (OSError, ValueError, ImportError, tarfile.TarError) as error:
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            raise InputError(f"{url} cannot be read: {reason}") from error
        if not found:
            raise InputError(
                f"{url} holds no pictures: {', '.join(_PICTURES)}, or tar files of them"
            )
        found = dict(sorted(found.items()))
        self.names = tuple(found)
        self._places: list[_Place] = list(found.values())
        self._numbers = {_key(name): i for i, name in enumerate(self.names)}

    def __len__(self) -> int:
        return len(self.names)

    @property
    def fingerprint(self) -> str:
        """Equal for two lists of the same names and sizes."""
        digest = hashlib.sha256()
        for name, place in zip(self.names, self._places, strict=True):
            digest.update(f"{name}\0{place.size}\0".encode())
        return digest.hexdigest()[:16]

    def read(self, number: int) -> bytes:
        """Return a picture's file. Raises StoreError."""
        place = self._places[number]
        end = None if place.size is None else place.offset + place.size
        try:
            return bytes(self._fs.cat_file(place.path, start=place.offset or None, end=end))
        except OSError as error:
            reason = error.strerror or str(error)
            raise StoreError(f"{self.url}: {self.names[number]}: {reason}") from error

    def number_of(self, name: str) -> int | None:
        """Return the number of the picture of that name, whatever its format; None without one."""
        return self._numbers.get(_key(name))

    def stems(self) -> list[str]:
        """Return a file name without extension for each, no two alike and none outside a folder;
        no two of them alike as `key_of` has them either.
        """
        stems: list[str] = []
        taken: set[str] = set()
        for name in self.names:
            path = PurePosixPath(name)
            parts = [_plain(part) for part in path.parent.parts if part not in ("/", "..", ".")]
            folder = "/".join(parts) or "images"
            stem = f"{folder}/{_plain(path.stem)}"
            while key_of(stem).casefold() in taken:
                stem += "-" + (path.suffix[1:].lower() or "x")
            taken.add(key_of(stem).casefold())
            stems.append(stem)
        return stems

    def _listed(self, root: str) -> dict[str, _Place]:
        details: dict[str, dict[str, Any]] = self._fs.find(root, detail=True)
        single = self._fs.isfile(root)
        found: dict[str, _Place] = {}
        for path, about in details.items():
            name = PurePosixPath(path).name if single else path[len(root) :].lstrip("/")
            if any(part.startswith(".") for part in PurePosixPath(name).parts):
                continue
            if name.lower().endswith(_PICTURES):
                found[name] = _Place(path, size=int(about["size"]))
            elif name.lower().endswith(".tar"):
                found |= self._members(path, name.removesuffix(".tar"))
        return found

    def _members(self, path: str, name: str) -> dict[str, _Place]:
        with self._fs.open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            return {
                f"{name}/{member.name}": _Place(path, member.offset_data, member.size)
                for member in archive
                if member.isfile() and member.name.lower().endswith(_PICTURES)
            }


def key_of(stem: str) -> str:
    """Return what WebDataset knows a picture by: its readers end a key at the first dot."""
    folder, slash, name = stem.rpartition("/")
    return f"{folder}{slash}{name.replace('.', '-')}"


@lru_cache(maxsize=8)
def open_inputs(url: str) -> Inputs:
    """Return the pictures at `url`, listed once in a process. Raises InputError."""
    return Inputs(url)


def _key(name: str) -> str:
    return str(PurePosixPath(name).with_suffix("")).casefold()


def _plain(part: str) -> str:
    return re.sub(r"[^\w.-]+", "-", part).strip(".-")[:100] or "image"
