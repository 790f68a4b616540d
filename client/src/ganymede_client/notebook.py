"""Shows images in notebooks: a grid as one image, or as HTML with captions."""

from __future__ import annotations

import base64
import html as escaping
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import PIL.Image

# A notebook stores what it shows, so more than this is shown as one smaller image.
_MAX_FIGURES = 100
_MAX_BYTES = 8 * 2**20
_MAX_GRID_SIDE = 2048
# Smaller images are enlarged by an integer factor, to at least this width in CSS pixels.
_MIN_WIDTH = 96


@dataclass(frozen=True)
class Figure:
    """An image of a notebook: its file, size in pixels, caption, alternative text and link."""

    file: bytes
    media_type: str
    size: tuple[int, int]
    caption: str
    text: str
    url: str | None = None


def grid(images: Sequence[PIL.Image.Image], columns: int, gap: int) -> PIL.Image.Image:
    """Arrange images in rows, `gap` pixels apart on white, each in the center of its cell.

    Raises ValueError if there are no images.
    """
    if not images:
        raise ValueError("there are no images")
    if gap < 0:
        raise ValueError(f"gap: expected at least 0, got {gap}")
    width = max(image.width for image in images)
    height = max(image.height for image in images)
    rows = math.ceil(len(images) / columns)
    modes = {image.mode for image in images}
    mode = modes.pop() if len(modes) == 1 else "RGB"
    size = (columns * (width + gap) - gap, rows * (height + gap) - gap)
    canvas = PIL.Image.new(mode if mode in ("L", "RGBA") else "RGB", size, "white")
    for i, image in enumerate(images):
        left = (i % columns) * (width + gap) + (width - image.width) // 2
        top = (i // columns) * (height + gap) + (height - image.height) // 2
        canvas.paste(image, (left, top))
    return canvas


def png(images: Sequence[PIL.Image.Image], columns: int, gap: int) -> bytes:
    """Return the grid as PNG, reduced if it is larger than a notebook shows."""
    side = max(
        columns * (max(image.width for image in images) + gap),
        math.ceil(len(images) / columns) * (max(image.height for image in images) + gap),
    )
    if side > _MAX_GRID_SIDE:
        # Before the images are arranged: the complete grid may not fit into memory.
        images, gap = [_reduced(image, _MAX_GRID_SIDE / side) for image in images], 0
    out = io.BytesIO()
    arranged = grid(images, columns, gap)
    arranged.thumbnail((_MAX_GRID_SIDE, _MAX_GRID_SIDE))
    arranged.save(out, "PNG")
    return out.getvalue()


def _reduced(image: PIL.Image.Image, factor: float) -> PIL.Image.Image:
    width, height = (max(1, int(side * factor)) for side in image.size)
    return image.resize((width, height), PIL.Image.Resampling.BOX)


def html(figures: Sequence[Figure], columns: int) -> str | None:
    """Return the figures as HTML without scripts; None if they are too many or too large."""
    if len(figures) > _MAX_FIGURES or sum(len(figure.file) for figure in figures) > _MAX_BYTES:
        return None
    cells = "".join(map(_cell, figures))
    return (
        f'<div style="display:grid;grid-template-columns:repeat({columns},max-content);gap:4px">'
        f"{cells}</div>"
    )


def video(file: bytes, media_type: str, text: str) -> str | None:
    """Return a player that repeats a video, as HTML without scripts; None if it is too large."""
    if len(file) > _MAX_BYTES:
        return None
    return (
        f'<video src="data:{media_type};base64,{base64.b64encode(file).decode()}" '
        f'title="{escaping.escape(text)}" controls autoplay loop muted playsinline '
        f'style="image-rendering:pixelated;max-width:100%;min-width:{2 * _MIN_WIDTH}px"></video>'
    )


def _cell(figure: Figure) -> str:
    width, height = figure.size
    factor = max(1, math.ceil(_MIN_WIDTH / width))
    text = escaping.escape(figure.text)
    image = (
        f'<img src="data:{figure.media_type};base64,{base64.b64encode(figure.file).decode()}" '
        f'width="{width * factor}" height="{height * factor}" alt="{text}" title="{text}" '
        'style="image-rendering:pixelated;max-width:none;margin:0">'
    )
    if figure.url is not None:
        image = f'<a href="{escaping.escape(figure.url)}">{image}</a>'
    caption = escaping.escape(figure.caption)
    caption = caption and f'<figcaption style="font:11px sans-serif">{caption}</figcaption>'
    return f'<figure style="margin:0">{image}{caption}</figure>'
