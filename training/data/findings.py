"""What a user should know about data that were read, in one line each.

The trainer prints these lines at the start, and `ganymede data` in its report.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

# Control characters, line separators, changes of direction, and bytes that are no text.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\ud800-\udfff]")
# Entries of a list that are shown; further ones are counted.
_MAX_SHOWN = 10
# Classes whose numbers of images fit in a line.
_MAX_CLASSES = 20
# Empty classes that are named.
_MAX_EMPTY = 3


class LabeledData(ABC):
    """A decoded data set, whose rows may have classes.

    Attributes:
        kind: what the rows are, in plural.
        labels: the class of each row, ``[N] int64``, or None.
        skipped: rows that could not be decoded, with the reason.
        names: the name of each row in its source.
        ignored: what was left out, with the reason.
        notes: what was decided, one line each.
        fingerprint: a SHA-256 of the files and their classes.
        preparation: how the rows were changed to fit, if that belongs in the record.
    """

    kind: ClassVar[str]

    labels: NDArray[np.int64] | None
    class_names: tuple[str, ...]
    skipped: tuple[str, ...]
    names: tuple[str, ...]
    ignored: Mapping[str, str]
    notes: tuple[str, ...]
    fingerprint: str
    preparation: str | None = None

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of rows."""

    @property
    @abstractmethod
    def decoded_bytes(self) -> int:
        """The size of the decoded rows."""

    def summary(self) -> str:
        """Return the number of rows of each class in one line; "" without classes."""
        if self.labels is None:
            return ""
        return counts_line(class_counts(self.class_names, self.labels.tolist()))

    def warnings(self) -> list[str]:
        """Return what a user should know about the data, one line each."""
        lines = list(self.notes)
        if self.labels is not None:
            counts = class_counts(self.class_names, self.labels.tolist())
            lines += empty_class_lines(counts, noun=self.kind.removesuffix("s"))
        return [*lines, *ignored_lines(self.ignored), *skipped_lines(self.skipped)]


def printable(text: str) -> str:
    """Return a text with control characters escaped: names of files may contain any."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def class_counts(class_names: Sequence[str], labels: Iterable[int]) -> dict[str, int]:
    """Return the number of rows of each class, also of the empty ones."""
    counts = [0] * len(class_names)
    for label in labels:
        counts[label] += 1
    return dict(zip(class_names, counts, strict=True))


def counts_line(counts: Mapping[str, int]) -> str:
    """Return the numbers of images by class, such as ``cats 8, dogs 8``."""
    first = list(counts.items())[:_MAX_CLASSES]
    shown = ", ".join(f"{printable(name)} {count:,}" for name, count in first)
    more = len(counts) - _MAX_CLASSES
    return f"{shown} and {more:,} more classes" if more > 0 else shown


def empty_class_lines(counts: Mapping[str, int], split: str = "", noun: str = "image") -> list[str]:
    """Return a line about the classes without rows, if there are any."""
    where = f" in the split {split}" if split else ""
    empty = [printable(name) for name, count in counts.items() if not count]
    if not empty:
        return []
    if len(empty) == 1:
        return [f"the class {empty[0]} has no readable {noun}{where}"]
    more = len(empty) - _MAX_EMPTY
    shown = (
        f"{', '.join(empty[:_MAX_EMPTY])} and {more:,} more"
        if more > 0
        else f"{', '.join(empty[:-1])} and {empty[-1]}"
    )
    return [f"the classes {shown} have no readable {noun}{where}"]


def ignored_lines(ignored: Mapping[str, str]) -> list[str]:
    """Return a line for each reason, with the first file that was ignored for it."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in ignored.items():
        by_reason.setdefault(reason, []).append(name)
    lines = []
    for reason, names in by_reason.items():
        more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
        lines.append(f"ignored: {printable(names[0])}{more}: {reason}")
    return lines


def skipped_lines(skipped: Sequence[str]) -> list[str]:
    """Return a line for each of the first images that could not be read, and count the others."""
    lines = [f"skipped: {printable(line)}" for line in skipped[:_MAX_SHOWN]]
    if len(skipped) > _MAX_SHOWN:
        lines.append(f"skipped: {len(skipped) - _MAX_SHOWN:,} more")
    return lines


def scaled_lines(names: Sequence[str]) -> list[str]:
    """Return a line about images whose range of values was inferred, if there are any."""
    if not names:
        return []
    shown = f"{names[0]}{f' and {len(names) - 1:,} more' if len(names) > 1 else ''}"
    return [
        f"scaled: {shown}: 32-bit values, whose range the file does not define; it was inferred "
        "from the values of each image"
    ]
