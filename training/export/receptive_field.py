"""Measures the receptive field of an image-to-image model.

Tiles of a large image overlap by twice the receptive field. The effective receptive field of a
network is much smaller than the theoretical one, so measuring it saves time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.runtime.models.manifest import ImageInput
from service.runtime.models.model import Model
from training.preview.grids import grid

Pixels = NDArray[np.uint8]

# A margin for images with a slightly larger receptive field than the measured images.
_MARGIN = 1.25


def measure_receptive_field(model: Model, images: Pixels) -> int | None:
    """Measure the radius of the receptive field in pixels, plus a margin.

    This is the distance from an edge beyond which values change by at most 1 of 255. The images
    ``[N, h, w, C]`` are joined to a large image. The model runs on this image and on its lower
    right quarter, and the outputs for the quarter are compared.

    Returns None if the manifest has no receptive field, that is, if every output pixel depends on
    the whole image.
    """
    image_input = model.manifest.input
    if image_input is None or image_input.reach is None:
        return None
    # The upper and left edges of the quarter are in the middle of the image, as between two tiles.
    side = _round_up(max(image_input.reach, image_input.side), image_input.multiple)
    image = _joined(images, 2 * side, image_input)
    start = side * image_input.factor
    difference = np.abs(
        _output(model, image)[start:, start:].astype(np.int16) - _output(model, image[side:, side:])
    ).max(axis=2)
    changed = np.argwhere(difference > 1)
    if not len(changed):
        return min(image_input.reach, 1)
    # A changed value is attributed to the nearer of the two edges.
    distance = int(changed.min(axis=1).max()) + 1
    measured = int(np.ceil(distance / image_input.factor * _MARGIN))
    return min(image_input.reach, measured)


def _joined(images: Pixels, side: int, image_input: ImageInput) -> Pixels:
    sheet = np.asarray(grid(images)).reshape(-1, grid(images).width, image_input.channels)
    repeats = -(-side // min(sheet.shape[:2]))
    return np.tile(sheet, (repeats, repeats, 1))[:side, :side]


def _output(model: Model, image: Pixels) -> Pixels:
    image_input = model.manifest.input
    assert image_input is not None  # noqa: S101 - for the type checker
    feeds = {"image": image[None]}
    if image_input.masked:
        # Holes everywhere, so that outputs depend on the surrounding pixels.
        height, width = image.shape[:2]
        rows, columns = np.arange(height)[:, None] // 8, np.arange(width) // 8
        feeds["mask"] = np.where((rows + columns) % 2, 255, 0).astype(np.uint8)[None]
    pixels: Pixels = model.run(image_input.roles[0], feeds)["pixels"][0]
    return pixels


def _round_up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple
