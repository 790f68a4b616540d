"""Measures the receptive field of an image-to-image model.

Tiles of a large image overlap by twice the receptive field. The effective receptive field of a
network is much smaller than the theoretical one, so measuring it saves time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.runtime.models.model import Model
from service.runtime.models.parts.inputs import ImageInput
from training.preview.grids import grid

Pixels = NDArray[np.uint8]

# A margin for images with a slightly larger receptive field than the measured images.
_MARGIN = 1.25
# With more output pixels, narrow strips of growing length are measured instead of one large image:
# the theoretical receptive field of a deep network would need gigabytes of activations.
_MAX_PIXELS = 2**20
_STRIP_WIDTH, _FIRST_LENGTH = 48, 48


def measure_receptive_field(model: Model, images: Pixels) -> int | None:
    """Measure the radius of the receptive field in pixels, plus a margin.

    This is the distance from an edge beyond which values change by at most 1 of 255. The images
    ``[N, h, w, C]`` are joined to a large image. The model runs on this image and on a part of it,
    and the outputs for the part are compared. The part is the lower right quarter, or, if the image
    would be too large, one half of a strip; strips grow until the changes end in their middle.

    Returns None if the manifest has no receptive field, that is, if every output pixel depends on
    the whole image. Returns that of the manifest if the model only takes images of one size.
    """
    image_input = model.manifest.input
    if image_input is None or image_input.reach is None:
        return None
    if image_input.fixed:
        return image_input.reach
    # The edges of the part are in the middle of the image, as between two tiles.
    factor = image_input.factor
    side = _round_up(max(image_input.reach, image_input.side), image_input.multiple)
    if (2 * side * factor) ** 2 <= _MAX_PIXELS:
        image = _joined(images, (2 * side, 2 * side), image_input)
        changed = _changed(model, image, (side, side))
        # A changed value is attributed to the nearer of the two edges.
        distance = int(changed.min(axis=1).max()) + 1 if len(changed) else 0
    else:
        distance = _distance_in_strips(model, images, image_input, side)
    if not distance:
        return min(image_input.reach, 1)
    measured = int(np.ceil(distance / factor * _MARGIN))
    return min(image_input.reach, measured)


def _distance_in_strips(model: Model, images: Pixels, image_input: ImageInput, longest: int) -> int:
    """Return the largest distance of a changed value from the cut of a strip, in output pixels.

    Half the length of a strip is at most `longest` pixels.
    """
    step, least = image_input.multiple, image_input.least or 1
    width = _round_up(max(_STRIP_WIDTH, least), step)
    length = min(_round_up(max(_FIRST_LENGTH, least), step), longest)
    while True:
        distance = 0
        for axis in (0, 1):
            size = (2 * length, width) if axis == 0 else (width, 2 * length)
            start = (length, 0) if axis == 0 else (0, length)
            changed = _changed(model, _joined(images, size, image_input), start)
            if len(changed):
                distance = max(distance, int(changed[:, axis].max()) + 1)
        if 2 * distance <= length * image_input.factor or length == longest:
            return distance
        length = min(2 * length, longest)


def _changed(model: Model, image: Pixels, start: tuple[int, int]) -> NDArray[np.intp]:
    """Return the output positions ``[K, 2]`` that change if the image begins at `start`.

    The positions are relative to `start`, and `start` is in input pixels.
    """
    image_input = model.manifest.input
    assert image_input is not None  # noqa: S101 - for the type checker
    top, left = start
    whole = _output(model, image)[top * image_input.factor :, left * image_input.factor :]
    difference = np.abs(whole.astype(np.int16) - _output(model, image[top:, left:]))
    return np.argwhere(difference.max(axis=2) > 1)


def _joined(images: Pixels, size: tuple[int, int], image_input: ImageInput) -> Pixels:
    sheet = np.asarray(grid(images)).reshape(-1, grid(images).width, image_input.channels)
    repeats = [-(-length // shown) for length, shown in zip(size, sheet.shape, strict=False)]
    return np.tile(sheet, (*repeats, 1))[: size[0], : size[1]]


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
