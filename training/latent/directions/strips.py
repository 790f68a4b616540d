"""Strips: images of the same seeds along a direction."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from PIL import Image
from PIL.Image import Resampling

from service.runtime.images.xmp import SourceType, save_options
from service.runtime.models.model import Model
from training.latent.directions.latents import Floats, Samples, images, moved
from training.preview.grids import grid

# Units from left to right.
STEPS = (-3, -2, -1, 0, 1, 2, 3)
# Rows of a strip.
ROWS = 4
# The sides of an image in a strip, in pixels: smaller ones are enlarged, larger ones reduced.
_MIN_SIDE, _MAX_SIDE = 64, 160


def strip(model: Model, samples: Samples, vector: Floats, layers: Sequence[int]) -> bytes:
    """Return a strip as a WebP file: a row for each of `samples`, a column for each of `STEPS`."""
    columns = [images(model, moved(samples, vector, layers, step)) for step in STEPS]
    cells = np.stack(columns, axis=1).reshape(-1, *columns[0].shape[1:])
    sheet = grid(cells, len(STEPS))
    side = max(model.manifest.image_spec.height, model.manifest.image_spec.width)
    if side < _MIN_SIDE:
        times = -(-_MIN_SIDE // side)
        sheet = sheet.resize((sheet.width * times, sheet.height * times), Resampling.NEAREST)
    elif side > _MAX_SIDE:
        width, height = (
            max(round(each * _MAX_SIDE / side), 1)
            for each in (model.manifest.image_spec.width, model.manifest.image_spec.height)
        )
        size = width * len(STEPS), height * len(samples)
        sheet = sheet.resize(size, Resampling.LANCZOS)
    return _encoded(sheet, lossless=side < _MIN_SIDE)


def reversed_strip(content: bytes) -> bytes:
    """Return a strip with its columns in reverse order."""
    with Image.open(BytesIO(content)) as file:
        sheet = file.convert("RGBA" if file.mode == "RGBA" else "RGB")
    width = sheet.width // len(STEPS)
    result = Image.new(sheet.mode, sheet.size)
    for i in range(len(STEPS)):
        column = sheet.crop((i * width, 0, (i + 1) * width, sheet.height))
        result.paste(column, ((len(STEPS) - 1 - i) * width, 0))
    # The first chunk of a lossless WebP file, or the second, after the flags for metadata.
    return _encoded(result, lossless=b"VP8L" in (content[12:16], content[30:34]))


def _encoded(sheet: Image.Image, *, lossless: bool) -> bytes:
    # Enlarged images compress well without loss; others would take megabytes.
    file = BytesIO()
    mark = save_options("WEBP", SourceType.GENERATED)
    sheet.save(file, format="WEBP", lossless=lossless, quality=90, **mark)
    return file.getvalue()
