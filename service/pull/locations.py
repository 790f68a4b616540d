"""Addresses of files: ``https://``, ``hf://``, ``s3://`` and ``pypi:``, with a checksum if pinned.

``#sha256=…`` at the end pins the content. A file on the Hugging Face hub is also pinned by the
commit: ``hf://owner/name@COMMIT/path``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from service.pull.checksums import Checksum, Kind
from service.runtime.errors import UserError, first_line

# Read through fsspec.
OBJECT_STORES = ("s3", "gs", "gcs", "az", "abfs", "file")
SCHEMES = ("https", "http", "hf", *OBJECT_STORES)
# Endings of archives, and of files with models.
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")
MODEL_SUFFIXES = (
    ".bin", ".ckpt", ".onnx", ".param", ".pkl", ".pt", ".pth", ".safetensors", *ARCHIVES
)  # fmt: skip
# A commit of Git.
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^/#]+))?(?:/(?P<path>[^#]*))?")
_PACKAGE = re.compile(
    r"pypi:(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)"
    r"(?:==(?P<version>[A-Za-z0-9.!+_-]+))?(?:/(?P<member>[^#]+))?"
)


class LocationError(UserError):
    """An address cannot be used."""


@dataclass(frozen=True)
class HubPath:
    """A file or folder of a model repository on the Hugging Face hub."""

    repo: str
    revision: str
    path: str

    @property
    def is_pinned(self) -> bool:
        """True if the revision is a commit, whose content cannot change."""
        return bool(_COMMIT.fullmatch(self.revision))


@dataclass(frozen=True)
class PackagePath:
    """A file in a wheel of a package index."""

    name: str
    version: str
    member: str

    @property
    def requirement(self) -> str:
        """The requirement for pip."""
        return f"{self.name}=={self.version}"


@dataclass(frozen=True)
class Location:
    """An address without its checksum, and the checksum."""

    address: str
    checksum: Checksum | None = None

    def __str__(self) -> str:
        return self.address

    @classmethod
    def parse(cls, text: str) -> Location:
        """Parse an address. Raises LocationError and, for its checksum, UserError."""
        address, _, fragment = text.strip().partition("#")
        if not is_location(address):
            raise LocationError(
                f"{text!r} is not an address: expected {', '.join(f'{s}://' for s in SCHEMES[:4])} "
                "or pypi:NAME==VERSION/FILE"
            )
        location = cls(address, _checksum(fragment) if fragment else None)
        _assert_valid(location)
        return location

    @property
    def scheme(self) -> str:
        """The part before the colon."""
        return self.address.partition(":")[0].lower()

    @property
    def filename(self) -> str:
        """The name of the file. Raises LocationError if the address has none."""
        match self.scheme:
            case "hf":
                name = PurePosixPath(self.hub.path or self.hub.repo).name
            case "pypi":
                name = PurePosixPath(self.package.member or self.package.name).name
            case _:
                parts = urlsplit(self.address)
                # A whole bucket can be a model repository.
                bucket = parts.netloc if self.scheme in OBJECT_STORES else ""
                name = PurePosixPath(unquote(parts.path)).name or bucket
        if not name or name in (".", ".."):
            raise LocationError(f"{self.address} names no file")
        return re.sub(r"[^\w.=+-]+", "-", name)

    @property
    def hub(self) -> HubPath:
        """The parts of an ``hf://`` address. Raises LocationError."""
        parts = _HUB.fullmatch(self.address)
        if parts is None:
            raise LocationError(f"{self.address}: expected hf://OWNER/NAME[@REVISION]/PATH")
        return HubPath(parts["repo"], parts["revision"] or "main", (parts["path"] or "").strip("/"))

    @property
    def package(self) -> PackagePath:
        """The parts of a ``pypi:`` address. Raises LocationError."""
        parts = _PACKAGE.fullmatch(self.address)
        if parts is None or not parts["version"]:
            raise LocationError(f"{self.address}: expected pypi:NAME==VERSION/FILE")
        return PackagePath(parts["name"], parts["version"], parts["member"] or "")

    def sibling(self, suffix: str) -> Location:
        """Return the address of the file beside this one that has another suffix."""
        path = urlsplit(self.address)
        stem = self.address if self.scheme == "pypi" else path.path
        changed = str(PurePosixPath(stem).with_suffix(suffix))
        if self.scheme == "pypi":
            return Location(changed)
        return Location(path._replace(path=changed).geturl())


def _assert_valid(location: Location) -> None:
    """Raise LocationError for an address that is incomplete or malformed."""
    try:
        location.filename  # noqa: B018 - raises
        if location.scheme in ("http", "https"):
            parts = urlsplit(location.address)
            parts.port  # noqa: B018 - raises
            # Names are resolved in this encoding.
            if not (parts.hostname or "").encode("idna"):
                raise LocationError(f"{location.address} names no host")
    except ValueError as error:
        reason = first_line(error)
        raise LocationError(f"{location.address} is not a valid address: {reason}") from error


def is_location(text: str) -> bool:
    """Return whether a text is an address instead of a path or a name."""
    return text.startswith("pypi:") or bool(re.match(rf"(?:{'|'.join(SCHEMES)})://", text))


def _checksum(fragment: str) -> Checksum:
    kind, equals, value = fragment.partition("=")
    if not equals or kind not in list(Kind):
        raise LocationError(f"#{fragment}: expected #sha256=DIGITS")
    return Checksum.parse(f"{kind}:{value}")
