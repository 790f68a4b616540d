"""Corpora: lines of text from a file, as tokens.

A source is a text file with one sequence per line (UTF-8), a JSON Lines file with the text in a
field, or a folder or ZIP archive with `metadata.jsonl`, such as the emoji.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from training.data.findings import printable
from training.data.images import DataOptions
from training.data.sources import DataError
from training.data.text.vocabulary import END, Unit, Vocabulary, split
from training.recipe.options import Options

_METADATA = "metadata.jsonl"
_MAX_BYTES = 2**30
# The share of lines that are held out, unless `data.hold_out` sets another one.
_HOLD_OUT = 10


class CorpusOptions(Options):
    """How the lines of a corpus become sequences of tokens."""

    unit: Unit = "character"
    # The field of JSON Lines that contains the text.
    field: str = "text"
    # The number of tokens of the networks, and so the maximum size of the vocabulary with the end
    # of a text. Only the training split decides which units have a token.
    vocabulary: int = Field(default=256, ge=2)
    # Units that occur less often have no token.
    min_count: PositiveInt = 1
    # Lines with more tokens are left out.
    max_length: PositiveInt = 40
    # Whether to use every different line once.
    unique: bool = True


@dataclass(frozen=True)
class TextData:
    """Sequences of tokens ``[N, T] int64``, padded with the end of a text.

    `held_out` are sequences that no training uses. If `ends` is False, all sequences have T tokens,
    and no token ends a text.
    """

    kind: ClassVar[str] = "texts"
    preparation: ClassVar[None] = None

    tokens: NDArray[np.int64]
    held_out: NDArray[np.int64]
    vocabulary: Vocabulary
    fingerprint: str
    notes: tuple[str, ...] = ()
    ends: bool = True
    class_names: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def decoded_bytes(self) -> int:
        """The bytes of all tokens."""
        return int(self.tokens.nbytes + self.held_out.nbytes)

    @property
    def lines(self) -> list[str]:
        """The texts of the training split."""
        return [self.vocabulary.join(row) for row in self.tokens.tolist()]

    @property
    def held_out_lines(self) -> list[str]:
        """The texts of the held-out split."""
        return [self.vocabulary.join(row) for row in self.held_out.tolist()]

    def summary(self) -> str:
        """Return the size of the vocabulary and the number of held-out sequences."""
        return (
            f"{len(self.vocabulary):,} tokens ({self.vocabulary.unit}s), "
            f"{len(self.held_out):,} held-out sequences"
        )

    def warnings(self) -> list[str]:
        """Return what was left out of the corpus, one line each."""
        return list(self.notes)


def load_corpus(data: DataOptions, options: CorpusOptions) -> TextData:
    """Read a corpus and split it by the hash of its lines. Raises DataError.

    The split does not depend on the order of the lines. Lines with units that have no token are
    left out of both splits.
    """
    location = data.locate()
    if not isinstance(location, Path):
        raise DataError(f"{location}: text is read from a file or folder, not from the hub")
    lines = read_lines(location, options.field)
    total = len(lines)
    notes = []
    if location.suffix.lower() in (".csv", ".tsv"):
        notes.append(f"{location.name} is read as lines of text, with all columns and separators")
    lines = [line for line in (" ".join(line.split()) for line in lines) if line]
    if len(lines) < total:
        notes.append(f"left out: {total - len(lines):,} empty lines")
    if options.unique:
        different = list(dict.fromkeys(lines))
        if len(different) < len(lines):
            notes.append(f"left out: {len(lines) - len(different):,} repeated lines")
        lines = different
    share = data.hold_out or _HOLD_OUT
    training = [line for line in lines if _hash(line) % share]
    held_out = [line for line in lines if _hash(line) % share == 0]
    if data.limit is not None:
        training = training[: data.limit]
    split_lines = [split(line, options.unit) for line in training]
    vocabulary = Vocabulary.of(split_lines, options.unit, options.vocabulary, options.min_count)
    numbers = {unit: token for token, unit in enumerate(vocabulary.units) if token != END}
    rows = _rows(split_lines, numbers, options.max_length, "training", notes)
    held_out_rows = _rows(
        [split(line, options.unit) for line in held_out],
        numbers,
        options.max_length,
        "held-out",
        notes,
    )
    if not rows:
        raise DataError(
            f"{location}: none of {total:,} lines can be used: {'; '.join(notes) or 'no lines'}"
        )
    text = "\n".join([*training, "", *held_out])
    return TextData(
        tokens=_padded(rows, options.max_length),
        held_out=_padded(held_out_rows, options.max_length),
        vocabulary=vocabulary,
        fingerprint=hashlib.sha256(text.encode()).hexdigest(),
        notes=tuple(notes),
    )


def read_lines(path: Path, field: str) -> list[str]:
    """Return the lines of a text file, or the field of the objects of a JSON Lines file.

    Raises DataError for other files, with the number of the first wrong line.
    """
    name, content = _content(path)
    if not content:
        raise DataError(f"{name} is empty")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(
            f"{name} is not UTF-8 text: byte 0x{content[error.start]:02x} in line {line}; expected "
            "a text file with one sequence per line, or JSON Lines"
        ) from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise DataError(f"{name} is not text: line {line} contains a NUL character")
    # Only the usual ends of lines: str.splitlines() also splits at characters within a line.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")
    if not name.endswith((".jsonl", ".ndjson")):
        return lines
    return [_field(name, number, line, field) for number, line in enumerate(lines, 1) if line]


def _content(path: Path) -> tuple[str, bytes]:
    """Return the name and the bytes of the file with the text. Raises DataError."""
    try:
        if path.is_dir():
            path /= _METADATA
            if not path.is_file():
                raise DataError(f"{path.parent} has no {_METADATA}; name the text file itself")
        if not path.exists():
            raise DataError(f"{path} does not exist")
        if not path.is_file():
            raise DataError(f"{path} is not a file")
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if _METADATA not in archive.namelist():
                    raise DataError(f"{path} has no {_METADATA}; name the text file itself")
                if archive.getinfo(_METADATA).file_size > _MAX_BYTES:
                    raise DataError(f"{path}: {_METADATA} is larger than 1 GiB")
                return f"{path}/{_METADATA}", archive.read(_METADATA)
        if path.stat().st_size > _MAX_BYTES:
            raise DataError(f"{path} is larger than 1 GiB")
        return str(path), path.read_bytes()
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _field(name: str, number: int, line: str, field: str) -> str:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}, line {number}: not JSON: {error}") from error
    value = record.get(field) if isinstance(record, dict) else None
    if not isinstance(value, str):
        raise DataError(
            f"{name}, line {number}: expected an object with a text in the field {field!r}; set "
            "game.corpus.field"
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{name}, line {number}: the text contains half of a surrogate pair, "
            f"\\u{ord(value[error.start]):04x}, which is no character"
        ) from error
    return value


def _hash(line: str) -> int:
    return zlib.crc32(line.encode())


def _rows(
    lines: Sequence[Sequence[str]],
    numbers: dict[str, int],
    max_length: int,
    split_name: str,
    notes: list[str],
) -> list[list[int]]:
    """Return the tokens of the lines that can be used, and note the number of the others."""
    rows, long = [], 0
    missing: Counter[str] = Counter()
    without = 0
    for line in lines:
        unknown = {unit for unit in line if unit not in numbers}
        if unknown:
            without += 1
            missing.update(unknown)
        elif len(line) > max_length:
            long += 1
        else:
            rows.append([numbers[unit] for unit in line])
    if without:
        examples = ", ".join(repr(printable(unit)) for unit, _ in missing.most_common(3))
        notes.append(
            f"left out: {without:,} {split_name} lines with units that have no token "
            f"({len(missing):,} different ones, such as {examples})"
        )
    if long:
        notes.append(f"left out: {long:,} {split_name} lines with more than {max_length} tokens")
    return rows


def _padded(rows: Sequence[Sequence[int]], length: int) -> NDArray[np.int64]:
    padded = np.full((len(rows), length), END, np.int64)
    for row, tokens in zip(padded, rows, strict=True):
        row[: len(tokens)] = tokens
    return padded
