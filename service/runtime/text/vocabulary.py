"""The vocabulary of a text model: from tokens to text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from service.runtime.files import open_regular
from service.runtime.models.manifest import ManifestError
from service.runtime.models.manifest_outputs import TextSpec

_MAX_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a text model, by index."""

    tokens: tuple[str, ...]
    spec: TextSpec

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of `tokens`, without those of the start and the end."""
        marks = (self.spec.start, self.spec.end)
        separator = "" if self.spec.unit == "character" else " "
        return separator.join(self.tokens[each] for each in tokens if each not in marks)


def read_vocabulary(folder: Path, spec: TextSpec) -> Vocabulary:
    """Read the vocabulary of a model folder. Raises ManifestError."""
    name = spec.vocabulary.file
    try:
        with open_regular(folder / name) as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ManifestError(f"{name} cannot be read: {error.strerror}") from error
    if len(data) > _MAX_BYTES:
        raise ManifestError(f"{name} is larger than {_MAX_BYTES:,} bytes")
    actual = hashlib.sha256(data).hexdigest()
    if actual != spec.vocabulary.sha256:
        raise ManifestError(
            f"{name} has sha256 {actual[:12]}…; the manifest expects {spec.vocabulary.sha256[:12]}…"
        )
    try:
        tokens = json.loads(data)
    except ValueError as error:
        raise ManifestError(f"{name} is not JSON: {error}") from error
    if not isinstance(tokens, list) or not all(isinstance(each, str) for each in tokens):
        raise ManifestError(f"{name} is not a list of strings")
    if len(tokens) != spec.size:
        raise ManifestError(f"{name} has {len(tokens)} tokens; the manifest expects {spec.size}")
    return Vocabulary(tuple(tokens), spec)
