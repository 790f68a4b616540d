"""Reads the layers of an ncnn network: the ``.param`` file.

Its first line is a magic number, and its second the numbers of layers and blobs. Every other line
is a layer: its type and name, the numbers of inputs and outputs, their blobs, and parameters
``id=value`` with numbers as ids. An array has the id ``-23300 - id`` and begins with its length.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from training.importers.errors import ModelImportError

_MAGIC = "7767517"
_ARRAY = -23300
_MAX_BYTES, _MAX_LAYERS = 8 * 2**20, 20_000
_MAX_NAME = 500
_MAX_INTEGER = 2**31 - 1

Value = int | float | tuple[float, ...]


@dataclass(frozen=True)
class Layer:
    """A layer with its blobs and parameters."""

    type: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    parameters: Mapping[int, Value]

    def number(self, key: int, default: float) -> float:
        """Return a parameter that is a number. Raises ModelImportError if it is an array."""
        value = self.parameters.get(key, default)
        if isinstance(value, tuple):
            raise ModelImportError(f"{self}: parameter {key} is an array, expected a number")
        return value

    def integer(self, key: int, default: int) -> int:
        """Return a parameter that is an integer. Raises ModelImportError."""
        value = self.number(key, default)
        if value != int(value) or abs(value) > _MAX_INTEGER:
            raise ModelImportError(f"{self}: parameter {key} is {value}, expected an integer")
        return int(value)

    def array(self, key: int) -> tuple[float, ...]:
        """Return a parameter that is an array; empty if it is missing. Raises ModelImportError."""
        value = self.parameters.get(key, ())
        if not isinstance(value, tuple):
            raise ModelImportError(f"{self}: parameter {key} is a number, expected an array")
        return value

    def __str__(self) -> str:
        return f"{self.type} {self.name}"


def find_network(path: Path) -> Path | None:
    """Return the ``.param`` file of an ncnn network, of which `path` is one of its two files.

    None if `path` is another file.
    """
    param = path.with_suffix(".param") if path.suffix == ".bin" else path
    try:
        with param.open("rb") as file:
            is_network = file.read(16).split(b"\n")[0].strip() == _MAGIC.encode()
    except OSError:
        return None
    return param if is_network or param.suffix == ".param" else None


def read_layers(path: Path) -> list[Layer]:
    """Return the layers of a network in the order of their execution. Raises ModelImportError."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise ModelImportError(f"{path} is larger than {_MAX_BYTES:,} bytes")
        lines = [line for line in content.decode("utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise ModelImportError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ModelImportError(f"{path} is not text: expected the .param file of ncnn") from error
    if len(lines) < 3 or lines[0].strip() != _MAGIC:
        raise ModelImportError(f"{path} is not a .param file of ncnn: it must begin with {_MAGIC}")
    counts = lines[1].split()
    if len(counts) != 2 or not counts[0].isdecimal() or int(counts[0]) != len(lines) - 2:
        raise ModelImportError(
            f"{path} is damaged: it declares {lines[1].strip()!r:.40} layers and blobs, and has "
            f"{len(lines) - 2:,} layers"
        )
    if len(lines) > _MAX_LAYERS:
        raise ModelImportError(f"{path} has {len(lines):,} layers; at most {_MAX_LAYERS:,}")
    try:
        return [_layer(line) for line in lines[2:]]
    except ModelImportError as error:
        raise ModelImportError(f"{path}: {error}") from error


def _layer(line: str) -> Layer:
    fields = line.split()
    try:
        type_, name, inputs, outputs = fields[0], fields[1], int(fields[2]), int(fields[3])
        blobs = fields[4 : 4 + inputs + outputs]
        if min(inputs, outputs) < 0 or len(blobs) != inputs + outputs:
            raise ValueError
        parameters = dict(_parameter(text) for text in fields[4 + inputs + outputs :])
    except (ValueError, IndexError) as error:
        raise ModelImportError(f"the line {line.strip()!r:.80} is not a layer") from error
    if any(len(text) > _MAX_NAME for text in (type_, name, *blobs)):
        raise ModelImportError(f"a name has more than {_MAX_NAME} characters: {name[:40]}…")
    return Layer(type_, name, tuple(blobs[:inputs]), tuple(blobs[inputs:]), parameters)


def _parameter(text: str) -> tuple[int, Value]:
    key, _, value = text.partition("=")
    number = int(key)
    if number <= _ARRAY:
        length, *values = value.split(",")
        if int(length) != len(values):
            raise ValueError
        return _ARRAY - number, tuple(_finite(each) for each in values)
    if re.fullmatch(r"[+-]?\d+", value):
        return number, int(value)
    return number, _finite(value)


def _finite(text: str) -> float:
    """Parse a number. Raises ValueError, also for NaN and infinity."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value
