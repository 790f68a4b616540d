"""Checksums that public sources state for a file."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import ClassVar

from service.runtime.errors import UserError
from service.runtime.files import open_regular


class Kind(StrEnum):
    """What a checksum is computed with, strongest first."""

    SHA256 = "sha256"
    # The first digits of a SHA-256, as PyTorch's hub puts them into file names.
    SHA256_PREFIX = "sha256-prefix"
    # The name of the file's content in a Git repository: SHA-1 of a header and the bytes.
    GIT_BLOB = "git-blob"
    MD5 = "md5"


_LENGTHS = {
    Kind.SHA256: range(64, 65),
    Kind.SHA256_PREFIX: range(8, 64),
    Kind.GIT_BLOB: range(40, 41),
    Kind.MD5: range(32, 33),
}


class ChecksumMismatch(UserError):
    """A file is not the one that was asked for."""

    exit_code: ClassVar[int] = 1


@dataclass(frozen=True)
class Checksum:
    """A checksum in lower-case hexadecimal digits."""

    kind: Kind
    value: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.value}"

    @property
    def is_strong(self) -> bool:
        """True if nobody can make another file with this checksum."""
        return self.kind is Kind.SHA256

    @classmethod
    def parse(cls, text: str) -> Checksum:
        """Parse ``KIND:DIGITS``, such as ``sha256:…``. Raises UserError."""
        name, _, value = text.partition(":")
        value = value.strip().lower()
        if name not in list(Kind):
            raise UserError(f"{text!r} is not a checksum: expected one of {', '.join(Kind)}")
        kind = Kind(name)
        if not re.fullmatch(r"[0-9a-f]+", value) or len(value) not in _LENGTHS[kind]:
            digits = _LENGTHS[kind]
            count = str(digits[0]) if len(digits) == 1 else f"{digits[0]} to {digits[-1]}"
            raise UserError(f"{text!r} is not a {kind}: expected {count} hexadecimal digits")
        return cls(kind, value)

    def matches(self, path: Path, sha256: str) -> bool:
        """Return whether a file has this checksum. `sha256` is the SHA-256 of the file."""
        match self.kind:
            case Kind.SHA256:
                return sha256 == self.value
            case Kind.SHA256_PREFIX:
                return sha256.startswith(self.value)
            case Kind.GIT_BLOB:
                header = f"blob {path.stat().st_size}\0".encode()
                return _digest(path, "sha1", header) == self.value
            case Kind.MD5:
                return _digest(path, "md5") == self.value


def _digest(path: Path, algorithm: str, header: bytes = b"") -> str:
    digest = hashlib.new(algorithm, header, usedforsecurity=False)
    with open_regular(path) as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()
