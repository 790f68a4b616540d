"""Input images drawn from seeds, to warm up, time and verify image-to-image models.

They show smooth color gradients. The same images must result on every machine, without a file,
because golden images depend on them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

_CELLS = 5


def probe_images(seeds: Sequence[int], side: int, channels: int) -> Pixels:
    """Return the images ``[N, side, side, channels] uint8`` of `seeds`."""
    position = (np.arange(side) + 0.5) * (_CELLS - 1) / side
    low = np.minimum(position.astype(int), _CELLS - 2)
    # Bilinear interpolation of a coarse grid in integers, which is exact on every machine.
    fraction = ((position - low) * 256).astype(np.int64)
    images = np.empty((len(seeds), side, side, channels), np.uint8)
    for i, seed in enumerate(seeds):
        grid = np.random.RandomState(seed).randint(0, 256, (_CELLS, _CELLS, channels))
        rows = (
            grid[low] * (256 - fraction)[:, None, None] + grid[low + 1] * fraction[:, None, None]
        ) >> 8
        weight = fraction[None, :, None]
        images[i] = (rows[:, low] * (256 - weight) + rows[:, low + 1] * weight) >> 8
    return images


def probe_masks(seeds: Sequence[int], side: int) -> Pixels:
    """Return the masks ``[N, side, side] uint8`` of `seeds`: 255 in a box of half the side."""
    masks = np.zeros((len(seeds), side, side), np.uint8)
    half = max(side // 2, 1)
    for mask, seed in zip(masks, seeds, strict=True):
        top, left = np.random.RandomState(seed).randint(0, side - half + 1, 2)
        mask[top : top + half, left : left + half] = 255
    return masks
