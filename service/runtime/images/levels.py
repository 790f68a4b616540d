"""Scales stored values of more than 8 bits to levels from 0 to 255.

The format defines the value of white for 16-bit images. It does not for 32-bit integers and floats,
where projects differ: their range is inferred from the values, so that no image becomes black.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.ImageFile import ImageFile

# TIFF tags (TIFF 6.0, section 8 and 19).
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_WHITE_IS_ZERO, _UNSIGNED = 0, 1
_MAX_16 = 65_535
# Floats above 1, but not far above, are taken for values in [0, 1] that overshoot.
_MAX_OVERSHOOT = 16.0


def stored_values(image: ImageFile) -> NDArray[Any]:
    """Return the values ``[H, W]`` of an image of mode I, I;16 or F."""
    values = np.asarray(image)
    tags: Any = getattr(image, "tag_v2", {})
    if values.dtype == np.int32 and tags.get(_BITS_PER_SAMPLE) == (32,):
        # Pillow reads unsigned values as signed ones.
        if tags.get(_SAMPLE_FORMAT, (_UNSIGNED,)) == (_UNSIGNED,):
            values = values.view(np.uint32)
        return values.astype(np.int64)
    return values if values.dtype == np.float32 else values.astype(np.int32)


def to_levels(image: ImageFile, values: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the levels ``[H, W] uint8`` of `values` ``[H, W]``, from `stored_values`."""
    tags: Any = getattr(image, "tag_v2", {})
    limits = value_range(image, values)
    black, white = limits
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        black, white = white, black
    if limits == (0, _MAX_16) and values.dtype == np.int32 and black == 0:
        # 65,535 / 255 = 257. Rounds to the nearest level in integers.
        levels: NDArray[np.uint8] = ((np.clip(values, 0, _MAX_16) + 128) // 257).astype(np.uint8)
        return levels
    scaled = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=limits[1], neginf=limits[0])
    scaled = (scaled - black) * (255 / (white - black))
    return np.floor(scaled.clip(0, 255) + 0.5).astype(np.uint8)


def value_range(image: ImageFile, values: NDArray[Any]) -> tuple[float, float]:
    """Return the values of black and white; white is above black."""
    if image.mode.startswith("I;16") or (image.format == "PPM" and values.dtype != np.float32):
        # Pillow scales portable graymaps to 16 bits, and returns other images with their bits.
        bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))[0]
        return 0, 2 ** min(bits, 16) - 1
    return inferred_range(values)


def has_inferred_range(image: ImageFile) -> bool:
    """Whether the format of an image does not define the value of white."""
    return image.mode == "F" or (image.mode == "I" and image.format != "PPM")


def inferred_range(values: NDArray[Any]) -> tuple[float, float]:
    """Return the values of black and white of an image whose format does not define them.

    Values in [0, 1] and [-1, 1] have these ranges if they are floats. Other non-negative values
    have the range of the smallest number of bits that holds them, at least 8. With negative values,
    the range is that of the values.
    """
    finite = values[np.isfinite(values)]
    if not len(finite):
        return 0, 1
    low, high = float(finite.min()), float(finite.max())
    if values.dtype == np.float32:
        if low >= -1 and high <= 1:
            return (0, 1) if low >= 0 else (-1, 1)
        is_overshoot = high <= _MAX_OVERSHOOT and not np.array_equal(finite, np.rint(finite))
        if low >= 0 and is_overshoot:
            return 0, high
    if low < 0:
        return low, max(high, low + 1)
    return 0, 2 ** max(int(np.ceil(high)).bit_length(), 8) - 1
