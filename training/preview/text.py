"""Sheets of sampled lines of text."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from training.data.findings import printable

# The key of the lines in `Image.info` of a sheet.
LINES = "lines"
_FONT_SIZE = 16
_LINE_HEIGHT = 22
_MARGIN = 12
_MAX_CHARACTERS = 60


def text_sheet(lines: Sequence[str], columns: int = 2) -> Image.Image:
    """Return an image of lines in columns; long lines are cut, with an ellipsis.

    The lines themselves are kept in `info` of the image. Characters that the font of Pillow does
    not have are drawn as boxes.
    """
    font = ImageFont.load_default(_FONT_SIZE)
    shown = [_shortened(printable(line)) for line in lines]
    rows = -(-len(shown) // columns)
    width = int(max((font.getlength(line) for line in shown), default=0)) + 2 * _MARGIN
    width = max(width, 160)
    size = (columns * width, rows * _LINE_HEIGHT + 2 * _MARGIN)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(shown):
        column, row = divmod(number, rows)
        at = (column * width + _MARGIN, row * _LINE_HEIGHT + _MARGIN)
        draw.text(at, line, fill="black", font=font)
    sheet.info[LINES] = tuple(lines)
    return sheet


def _shortened(line: str) -> str:
    return line if len(line) <= _MAX_CHARACTERS else f"{line[: _MAX_CHARACTERS - 1]}…"
