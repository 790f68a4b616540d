"""Reproduces the texts of a JSON Lines file from the parameters of each line, and compares them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from service.offline.reproduce import CannotReproduce, load_model
from service.runtime.models.model import Model
from service.runtime.request_fields import InvalidRequest
from service.runtime.text.records import (
    TextFormat,
    generate_records,
    model_vocabulary,
    record_line,
)
from service.runtime.text.requests import text_sources

# Texts per run, which bounds the memory for their states.
_BATCH_TEXTS = 64
_IDENTITY = ("model", "version", "digest")
_TYPES: dict[str, type | tuple[type, ...]] = {
    "seed": int,
    "temperature": (int, float),
    "prefix": str,
    "max_length": int,
}


class NoTexts(CannotReproduce):
    """The file is not JSON Lines with texts of Ganymede."""


@dataclass(frozen=True)
class TextReproduction:
    """A reproduced file of texts, compared with the original.

    Attributes:
        regenerated: the content of the reproduced file.
        identical: whether the files are identical, byte for byte.
        models: the models that the lines name, as ``name@version``.
        texts: the number of texts.
        different: the numbers of the lines that differ, from 1.
    """

    file: Path
    regenerated: bytes
    identical: bool
    models: tuple[str, ...]
    texts: int
    different: tuple[int, ...]

    @property
    def equal(self) -> bool:
        """Whether all texts are equal."""
        return not self.different

    @property
    def summary(self) -> str:
        """The result as one line of text."""
        if self.identical:
            return "identical, byte for byte"
        if self.equal:
            return "equal in every text"
        return (
            f"differs in {len(self.different):,} of {self.texts:,} texts, "
            f"the first in line {self.different[0]:,}"
        )

    def as_json(self) -> dict[str, Any]:
        """The result as a JSON object."""
        return {
            "file": str(self.file),
            "equal": self.equal,
            "identical": self.identical,
            "texts": self.texts,
            "different_texts": len(self.different),
            "different_lines": list(self.different),
        }


def has_texts(file: Path) -> bool:
    """Whether a file has the suffix of a file of texts."""
    return file.suffix.lower() == f".{TextFormat.JSONL.extension}"


def reproduce_texts(file: Path, models: Path) -> TextReproduction:
    """Generate the texts of `file` again on the CPU with their models, and compare.

    `models` is the models folder. Raises CannotReproduce.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise CannotReproduce(f"{file} cannot be read: {error.strerror}") from error
    lines = content.removesuffix(b"\n").split(b"\n") if content else []
    records = [_record(file, number, line) for number, line in enumerate(lines, 1)]
    if not records:
        raise NoTexts(f"{file} has no texts")
    made: list[dict[str, Any]] = []
    for _, group in groupby(records, lambda record: [record[name] for name in _IDENTITY]):
        same = list(group)
        model = load_model(file, same[0], models)
        if model.manifest.text is None:
            raise CannotReproduce(f"{file}: {model.manifest.name} returns no texts")
        for start in range(0, len(same), _BATCH_TEXTS):
            made += _generate(file, model, same[start : start + _BATCH_TEXTS], len(made) + 1)
    regenerated = b"".join(map(record_line, made))
    pairs = enumerate(zip(records, made, strict=True), 1)
    different = [number for number, (old, new) in pairs if not new.items() <= old.items()]
    named = dict.fromkeys(f"{record['model']}@{record['version']}" for record in records)
    return TextReproduction(
        file, regenerated, regenerated == content, tuple(named), len(records), tuple(different)
    )


def _record(file: Path, number: int, line: bytes) -> dict[str, Any]:
    """Read a line. Raises NoTexts."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise NoTexts(f"{file}: line {number:,} is not JSON") from error
    if not isinstance(record, dict) or not all(
        isinstance(record.get(name), str) for name in _IDENTITY
    ):
        raise NoTexts(f"{file}: line {number:,} has no Ganymede metadata")
    return record


def _generate(
    file: Path, model: Model, records: Sequence[Mapping[str, Any]], number: int
) -> list[dict[str, Any]]:
    """Return the records again; the first of them is in line `number`. Raises CannotReproduce."""
    vocabulary, sources = model_vocabulary(model), []
    for line, record in enumerate(records, number):
        try:
            for name, expected in _TYPES.items():
                if not isinstance(record[name], expected):
                    raise TypeError(f"{name} has another type")
            sources += text_sources(
                model.manifest,
                vocabulary,
                max_texts=1,
                seeds=[record["seed"]],
                temperature=record["temperature"],
                prefix=record["prefix"],
                max_length=record["max_length"],
            )
        except KeyError as error:
            raise CannotReproduce(f"{file}: line {line:,} has no {error.args[0]}") from error
        except (InvalidRequest, TypeError, ValueError, OverflowError) as error:
            raise CannotReproduce(f"{file}: line {line:,} has invalid metadata: {error}") from error
    identity = {name: records[0][name] for name in _IDENTITY}
    return [identity | each for each in generate_records(model, sources)]
