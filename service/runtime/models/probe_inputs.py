"""Inputs drawn from seeds, to warm up, time and verify models that take more than latents.

Images show smooth color gradients. The same inputs must result on every machine, without a file,
because golden outputs depend on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

_CELLS = 5
# Tokens of texts, and the first indices of the vocabulary, which every vocabulary has.
_TOKENS = 8


def probe_images(seeds: Sequence[int], size: int | tuple[int, int], channels: int) -> Pixels:
    """Return the images ``[N, h, w, channels] uint8`` of `seeds`.

    `size` is (h, w), or the side of square images. Other images than square ones are the upper left
    corner of the square that holds them.
    """
    height, width = (size, size) if isinstance(size, int) else size
    side = max(height, width)
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
    return np.ascontiguousarray(images[:, :height, :width])


def probe_masks(seeds: Sequence[int], size: int | tuple[int, int]) -> Pixels:
    """Return the masks ``[N, h, w] uint8`` of `seeds`: 255 in a box of half the side.

    `size` is that of `probe_images`.
    """
    height, width = (size, size) if isinstance(size, int) else size
    side = max(height, width)
    masks = np.zeros((len(seeds), side, side), np.uint8)
    half = max(side // 2, 1)
    for mask, seed in zip(masks, seeds, strict=True):
        top, left = np.random.RandomState(seed).randint(0, side - half + 1, 2)
        mask[top : top + half, left : left + half] = 255
    return np.ascontiguousarray(masks[:, :height, :width])


def probe_texts(seeds: Sequence[int], dimension: int) -> NDArray[np.float32]:
    """Return vectors of texts ``[N, dimension] float32``, about as long as unit vectors."""
    rows = [np.random.RandomState(seed).randn(dimension) / dimension**0.5 for seed in seeds]
    return np.array(rows, np.float32).reshape(len(seeds), dimension)


def probe_tokens(seeds: Sequence[int], vocabulary: int = _TOKENS) -> dict[str, NDArray[Any]]:
    """Return ``token_ids [N, 8] int64`` below `vocabulary`, and ``token_mask [N, 8] float32``.

    Text i has 1 to 8 tokens.
    """
    ids = [np.random.RandomState(seed).randint(0, vocabulary, _TOKENS) for seed in seeds]
    mask = [np.arange(_TOKENS) <= seed % _TOKENS for seed in seeds]
    return {
        "token_ids": np.array(ids, np.int64).reshape(-1, _TOKENS),
        "token_mask": np.array(mask, np.float32).reshape(-1, _TOKENS),
    }
