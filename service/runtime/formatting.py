"""Numbers, sizes and durations in messages. Imports nothing: every command and process needs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def exact(value: float | np.generic) -> str:
    """Return a number with all digits that tell it from its neighbors, in its own type.

    A message must not state "expected 0 to 1, got 1" for 1.0000001.
    """
    return str(value).removesuffix(".0")


def counted(count: int, noun: str) -> str:
    """Return a number and what it counts, whose plural ends in s: ``1 frame``, ``1,200 frames``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def format_size(size: float) -> str:
    """Return a number of bytes, such as ``1.5 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def duration(seconds: float) -> str:
    """Return a duration with its two largest units: ``2 d 3 h``, ``3 h 12 min``, ``4:05``."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02}"
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days} d {hours} h"
