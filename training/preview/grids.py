"""Grids of sample images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.runtime.files import replacing
from service.runtime.images.xmp import SourceType, save_options
from training.preview.text import LINES

if TYPE_CHECKING:
    from torch import Tensor


def to_pixels(images: Tensor) -> NDArray[np.uint8]:
    """Convert ``[N, C, H, W]`` in [-1, 1] to ``[N, H, W, C] uint8``."""
    scaled = ((images + 1) * 127.5).round().clamp(0, 255)
    pixels: NDArray[np.uint8] = scaled.permute(0, 2, 3, 1).byte().numpy()
    return pixels


def columns(classes: int) -> int | None:
    """Return the columns of a grid with one class per column, or None for too many classes."""
    return classes if 1 < classes <= 12 else None


def grid(pixels: NDArray[np.uint8], in_a_row: int | None = None) -> Image.Image:
    """Arrange ``[N, H, W, C] uint8`` in a grid of `in_a_row` columns; default: nearly square."""
    count, height, width, channels = pixels.shape
    in_a_row = in_a_row or math.ceil(math.sqrt(count))
    rows = math.ceil(count / in_a_row)
    sheet = np.full((rows * height, in_a_row * width, channels), 255, np.uint8)
    for i, image in enumerate(pixels):
        y, x = divmod(i, in_a_row)
        sheet[y * height : (y + 1) * height, x * width : (x + 1) * width] = image
    return Image.fromarray(sheet.squeeze(-1) if channels == 1 else sheet)


def side_by_side(series: Sequence[NDArray[np.uint8]], groups: int = 3, gap: int = 4) -> Image.Image:
    """Arrange corresponding images in a sheet: row i shows image i of each series.

    Each series is ``[N, H, W, C] uint8``. Smaller images are enlarged by nearest-neighbor
    interpolation, and gray images are converted to color. The rows are arranged in `groups`
    columns.
    """
    height = max(each.shape[1] for each in series)
    width = max(each.shape[2] for each in series)
    channels = 4 if any(each.shape[3] == 4 for each in series) else 3
    count = len(series[0])
    groups = min(groups, count)
    rows = math.ceil(count / groups)
    across = len(series) * width + gap
    size = (rows * (height + gap) - gap, groups * across - gap, channels)
    sheet = np.full(size, 255, np.uint8)
    for i in range(count):
        top, left = i % rows * (height + gap), i // rows * across
        for j, each in enumerate(series):
            image = each[i].repeat(height // each.shape[1], 0).repeat(width // each.shape[2], 1)
            spot = sheet[top : top + height, left + j * width : left + (j + 1) * width]
            spot[..., : image.shape[2] if image.shape[2] > 1 else 3] = image
    return Image.fromarray(sheet)


def save_sheet(sheet: Image.Image, path: Path, *, shows_inputs: bool) -> None:
    """Write a sheet of generated images as PNG atomically, with their mark.

    The lines of a sheet of text are also written beside it, as a text file.

    `shows_inputs` tells whether the images were made from others, which the sheet shows, too.
    """
    mark = save_options("PNG", SourceType.of_sheet(shows_inputs=shows_inputs))
    with replacing(path) as temporary:
        sheet.save(temporary, format="PNG", **mark)
    if lines := sheet.info.get(LINES):
        with replacing(path.with_suffix(".txt")) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines))
