"""Sheets of images with captions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_GAP = 4
_TEXT_HEIGHT = 14
# Small images are enlarged by a whole factor to about this height, so that captions fit.
_SIDE = 64


def captioned_grid(pixels: NDArray[np.uint8], captions: Sequence[str]) -> Image.Image:
    """Arrange images ``[N, H, W, C] uint8`` in one row per caption, each row below its caption.

    N is a multiple of the number of captions. Small images are enlarged by repeating pixels.
    """
    count, height, width, channels = pixels.shape
    in_a_row = count // len(captions)
    factor = max(_SIDE // height, 1)
    height, width = height * factor, width * factor
    large = pixels.repeat(factor, 1).repeat(factor, 2)
    if channels == 1:
        large = large.repeat(3, 3)
    size = (in_a_row * (width + _GAP) - _GAP, len(captions) * (height + _TEXT_HEIGHT + _GAP))
    sheet = Image.new("RGBA" if channels == 4 else "RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=11)
    for row, caption in enumerate(captions):
        top = row * (height + _TEXT_HEIGHT + _GAP)
        draw.text((0, top), _fitted(caption, size[0], font), "black", font)
        for column in range(in_a_row):
            image = Image.fromarray(large[row * in_a_row + column])
            sheet.paste(image, (column * (width + _GAP), top + _TEXT_HEIGHT))
    return sheet


def _fitted(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Return `text`, shortened to `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"
