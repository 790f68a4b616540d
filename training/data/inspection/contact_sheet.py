"""Contact sheets: a sample of the images of each split and class."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from service.runtime.files import cache_folder
from training.data.inspection.scan import ScannedImage, in_threads
from training.data.sources.source import DataError, ImageSource

_SIDE = 96
_COLUMNS = 12
_GAP = 4
_CAPTION_HEIGHT = 22
_MAX_GROUPS = 40
# Rows of a data set without splits and classes.
_ROWS_WITHOUT_CLASSES = 8
_BACKGROUND, _FRAME, _TEXT = (255, 255, 255), (232, 232, 232), (32, 32, 32)


def sheet_file(requested: Path | None, location: Path | str) -> Path:
    """Return the file of the contact sheet of the data at `location`: `requested`, if given.

    The default is in the cache folder, so that nothing is written into the data. Raises DataError
    if `requested` would become part of the data.
    """
    if requested is None:
        key = hashlib.sha256(str(Path(location).resolve()).encode()).hexdigest()[:12]
        name = Path(str(location)).name or "data"
        return cache_folder("contact-sheets") / f"{name[:100]}-{key}.png"
    requested = requested.expanduser()
    if requested.is_dir():
        raise DataError(f"--sheet: {requested} is a folder; name a PNG file")
    if requested.resolve().is_relative_to(Path(location).expanduser().resolve()):
        raise DataError(f"--sheet: {requested} would be part of the data; choose another folder")
    return requested


def contact_sheet(
    images: Sequence[ScannedImage], sources: Mapping[str, ImageSource], class_names: Sequence[str]
) -> Image.Image:
    """Draw evenly spaced images of each split and class, with its name and number of images.

    Images keep their shape; small ones are enlarged without smoothing. `sources` are the sources of
    the splits, which are read again.
    """
    groups: dict[tuple[str, int | None], list[ScannedImage]] = {}
    for image in images:
        groups.setdefault((image.split, image.label), []).append(image)
    ordered = sorted(groups.items(), key=lambda item: _order(sources, item[0]))
    shown = ordered[:_MAX_GROUPS]
    most = _COLUMNS * (_ROWS_WITHOUT_CLASSES if len(shown) == 1 else 1)
    samples = [(key, len(group), _evenly(group, most)) for key, group in shown]
    heights = [
        _CAPTION_HEIGHT + -(-len(sample) // _COLUMNS) * (_SIDE + _GAP) for _, _, sample in samples
    ]
    hidden = len(ordered) - len(shown)
    size = (
        _GAP + _COLUMNS * (_SIDE + _GAP),
        _GAP + sum(heights) + (_CAPTION_HEIGHT if hidden else 0),
    )
    sheet = Image.new("RGB", size, _BACKGROUND)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    top = _GAP
    for (key, count, sample), height in zip(samples, heights, strict=True):
        draw.text((_GAP, top), _caption(*key, count, class_names), _TEXT, font=font)
        tiles = in_threads(partial(_tile, sample, sources), range(len(sample)))
        for i, tile in enumerate(tiles):
            y, x = divmod(i, _COLUMNS)
            if isinstance(tile, Image.Image):
                sheet.paste(
                    tile,
                    (
                        _GAP + x * (_SIDE + _GAP),
                        top + _CAPTION_HEIGHT + y * (_SIDE + _GAP),
                    ),
                )
        top += height
    if hidden:
        draw.text((_GAP, top), f"and {hidden:,} more classes", _TEXT, font=font)
    return sheet


def _order(sources: Mapping[str, ImageSource], key: tuple[str, int | None]) -> tuple[int, int]:
    split, label = key
    return list(sources).index(split), -1 if label is None else label


def _evenly(group: Sequence[ScannedImage], most: int) -> list[ScannedImage]:
    if len(group) <= most:
        return list(group)
    return [group[i * len(group) // most] for i in range(most)]


def _caption(split: str, label: int | None, count: int, class_names: Sequence[str]) -> str:
    name = "" if label is None else class_names[label]
    parts = [part for part in (split, name) if part]
    return f"{' / '.join(parts) or 'all images'}: {count:,}".replace("\n", " ")[:120]


def _tile(
    images: Sequence[ScannedImage], sources: Mapping[str, ImageSource], number: int
) -> Image.Image:
    """Return an image in a square of `_SIDE` pixels."""
    image = images[number]
    small = sources[image.split].read(image.row)
    scale = min(_SIDE / small.width, _SIDE / small.height)
    if scale >= 2:
        size = (small.width * int(scale), small.height * int(scale))
        small = small.resize(size, Image.Resampling.NEAREST)
    elif scale < 1:
        size = (max(round(small.width * scale), 1), max(round(small.height * scale), 1))
        small = small.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    tile = Image.new("RGBA", (_SIDE, _SIDE), _FRAME)
    left, top = (_SIDE - small.width) // 2, (_SIDE - small.height) // 2
    if small.has_transparency_data:
        white = Image.new("RGBA", small.size, _BACKGROUND)
        small = Image.alpha_composite(white, small.convert("RGBA"))
    tile.paste(small.convert("RGB"), (left, top))
    return tile.convert("RGB")
