"""The vocabulary of a text model: from tokens to text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from service.runtime.files import open_regular
from service.runtime.models.manifest import ManifestError
from service.runtime.models.parts.outputs import TextSpec

_MAX_BYTES = 64 * 2**20


class UnknownToken(Exception):
    """A text has a character or a word that is not in the vocabulary; `token` is its text."""

    def __init__(self, token: str) -> None:
        super().__init__(token)
        self.token = token


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a text model, by index."""

    tokens: tuple[str, ...]
    spec: TextSpec

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of `tokens`, without those of the start and the end."""
        marks = (self.spec.start, self.spec.end)
        return self._separator.join(self.tokens[each] for each in tokens if each not in marks)

    def piece(self, token: int, position: int) -> str:
        """Return what the token at `position` adds to a text; empty for the start and the end."""
        if token in (self.spec.start, self.spec.end):
            return ""
        return (self._separator if position else "") + self.tokens[token]

    def read(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a text. Raises UnknownToken."""
        parts = list(text) if self.spec.unit == "character" else text.split()
        for part in parts:
            if part not in self._indices:
                raise UnknownToken(part)
        return tuple(self._indices[part] for part in parts)

    @property
    def _separator(self) -> str:
        return "" if self.spec.unit == "character" else " "

    @cached_property
    def _indices(self) -> dict[str, int]:
        """The tokens by their text, without those of the start and the end."""
        marks = (self.spec.start, self.spec.end)
        return {token: i for i, token in enumerate(self.tokens) if i not in marks}


@lru_cache(maxsize=16)
def read_vocabulary(folder: Path, spec: TextSpec) -> Vocabulary:
    """Read the vocabulary of a model folder. Raises ManifestError."""
    name = spec.vocabulary.file
    data = read_checked(folder / name, spec.vocabulary.sha256)
    try:
        tokens = json.loads(data)
    except ValueError as error:
        raise ManifestError(f"{name} is not JSON: {error}") from error
    if not isinstance(tokens, list) or not all(isinstance(each, str) for each in tokens):
        raise ManifestError(f"{name} is not a list of strings")
    if len(tokens) != spec.size:
        raise ManifestError(f"{name} has {len(tokens)} tokens; the manifest expects {spec.size}")
    return Vocabulary(tuple(tokens), spec)


def read_checked(path: Path, sha256: str) -> bytes:
    """Return the content of a file of a model folder. Raises ManifestError."""
    try:
        with open_regular(path) as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ManifestError(f"{path.name} cannot be read: {error.strerror}") from error
    if len(data) > _MAX_BYTES:
        raise ManifestError(f"{path.name} is larger than {_MAX_BYTES:,} bytes")
    actual = hashlib.sha256(data).hexdigest()
    if actual != sha256:
        raise ManifestError(
            f"{path.name} has sha256 {actual[:12]}…; the manifest expects {sha256[:12]}…"
        )
    return data
