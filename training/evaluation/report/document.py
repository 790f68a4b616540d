"""The content of a report as data. `page` writes it as HTML; `terminal` prints notes and tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from PIL import Image


@dataclass(frozen=True)
class Note:
    """A line of text. Warnings are highlighted."""

    kind: ClassVar[str] = "note"
    text: str
    is_warning: bool = False

    def __str__(self) -> str:
        return f"warning: {self.text}" if self.is_warning else self.text


@dataclass(frozen=True)
class Table:
    """A table of text. On a terminal, only the first `terminal_columns` columns are shown."""

    kind: ClassVar[str] = "table"
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    terminal_columns: int | None = None


@dataclass(frozen=True)
class CaptionedImage:
    """An image with a caption."""

    image: Image.Image
    caption: str = ""


@dataclass(frozen=True)
class Gallery:
    """Images side by side."""

    kind: ClassVar[str] = "gallery"
    images: Sequence[CaptionedImage]


@dataclass(frozen=True)
class Line:
    """A line of a chart with its points ``(x, y)``, from left to right."""

    name: str
    points: Sequence[tuple[float, float]]
    # Draw the points without connecting them.
    scatter: bool = False


@dataclass(frozen=True)
class Chart:
    """A line chart."""

    lines: Sequence[Line]
    x_label: str
    y_label: str
    from_zero: bool = False
    # Requires positive values.
    log_x: bool = False


@dataclass(frozen=True)
class ChartGroup:
    """Charts side by side."""

    kind: ClassVar[str] = "charts"
    charts: Sequence[Chart]


Part = Note | Table | Gallery | ChartGroup


@dataclass(frozen=True)
class Section:
    """A heading of level 2 or 3, and its content."""

    title: str
    parts: Sequence[Part]
    level: int = 2
