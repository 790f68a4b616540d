"""How far a pixel reaches, measured: the reach that a network could have is far more than it uses.

Tiles of a large picture overlap by twice the reach, so a reach that nobody would see costs time for
nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.runtime.models.manifest import ImageInput
from service.runtime.models.model import Model
from training.preview.grids import grid

Pixels = NDArray[np.uint8]

# What other pictures may have that were not looked at.
_MARGIN = 1.25


def measure_receptive_field(model: Model, pictures: Pixels) -> int | None:
    """Return the distance from an edge beyond which no value moves by more than a level of 255.

    The pictures ``[N, h, w, C]`` are put together to one, which the model makes whole and in part.
    None where the manifest has none: then all of a picture has a part in all of it.
    """
    given = model.manifest.input
    if given is None or given.reach is None:
        return None
    # The part's edges on two sides lie in the middle of the whole, as those between tiles do.
    side = _up_to(max(given.reach, given.side), given.multiple)
    whole = _put_together(pictures, 2 * side, given)
    apart = np.abs(
        _made(model, whole)[side * given.factor :, side * given.factor :].astype(np.int16)
        - _made(model, whole[side:, side:])
    ).max(axis=2)
    moved = np.argwhere(apart > 1)
    if not len(moved):
        return min(given.reach, 1)
    # Of each value the nearer of the two edges has moved it.
    farthest = int(moved.min(axis=1).max()) + 1
    reach = int(np.ceil(farthest / given.factor * _MARGIN))
    return min(given.reach, reach)


def _put_together(pictures: Pixels, side: int, given: ImageInput) -> Pixels:
    sheet = np.asarray(grid(pictures)).reshape(-1, grid(pictures).width, given.channels)
    times = -(-side // min(sheet.shape[:2]))
    return np.tile(sheet, (times, times, 1))[:side, :side]


def _made(model: Model, image: Pixels) -> Pixels:
    feeds = {"image": image[None]}
    if model.manifest.input is not None and model.manifest.input.masked:
        # Holes everywhere, so that what is known far away has to be asked for.
        height, width = image.shape[:2]
        rows, columns = np.arange(height)[:, None] // 8, np.arange(width) // 8
        feeds["mask"] = np.where((rows + columns) % 2, 255, 0).astype(np.uint8)[None]
    made: Pixels = model.run(model.manifest.input.roles[0], feeds)["pixels"][0]  # type: ignore[union-attr]
    return made


def _up_to(length: int, step: int) -> int:
    return -(-length // step) * step
