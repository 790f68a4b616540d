"""What a user should know about data that were read, in one line each.

The trainer prints these lines at the start, and `ganymede data` in its report.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

# Control characters, line separators, changes of direction, and bytes that are no text.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\ud800-\udfff]")
# Entries of a list that are shown; further ones are counted.
_MAX_SHOWN = 10
# Classes whose numbers of images fit in a line.
_MAX_CLASSES = 20
# Empty classes that are named.
_MAX_EMPTY = 3


def printable(text: str) -> str:
    """Return a text with control characters escaped: names of files may contain any."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def class_counts(class_names: Sequence[str], labels: Iterable[int]) -> dict[str, int]:
    """Return the number of images of each class, also of the empty ones."""
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


def empty_class_lines(counts: Mapping[str, int], split: str = "") -> list[str]:
    """Return a line about the classes without images, if there are any."""
    where = f" in the split {split}" if split else ""
    empty = [printable(name) for name, count in counts.items() if not count]
    if not empty:
        return []
    if len(empty) == 1:
        return [f"the class {empty[0]} has no readable image{where}"]
    more = len(empty) - _MAX_EMPTY
    shown = (
        f"{', '.join(empty[:_MAX_EMPTY])} and {more:,} more"
        if more > 0
        else f"{', '.join(empty[:-1])} and {empty[-1]}"
    )
    return [f"the classes {shown} have no readable image{where}"]


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
