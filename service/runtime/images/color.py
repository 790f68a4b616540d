"""Splits images into luma and chroma, for models that work on gray images.

Luma and chroma are those of JPEG (ITU-T T.871): BT.601, full range.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


def split_chroma(pixels: Pixels) -> tuple[Pixels, Pixels]:
    """Return the luma ``[H, W, 1]`` and the chroma (Cb, Cr) ``[H, W, 2]`` of RGB ``[H, W, 3]``."""
    ycbcr = np.asarray(Image.fromarray(pixels).convert("YCbCr"))
    return ycbcr[..., :1], np.ascontiguousarray(ycbcr[..., 1:])


def with_chroma(luma: Pixels, chroma: Pixels) -> Pixels:
    """Return RGB ``[H, W, 3]`` from luma ``[H, W, 1]`` and the chroma (Cb, Cr) ``[h, w, 2]``.

    The chroma is resized to the luma (bicubic).
    """
    height, width = luma.shape[:2]
    channels = [Image.fromarray(luma[..., 0])]
    for i in range(2):
        plane = Image.fromarray(chroma[..., i])
        channels.append(plane.resize((width, height), Image.Resampling.BICUBIC))
    return np.asarray(Image.merge("YCbCr", channels).convert("RGB"))


def grayed(pixels: Pixels) -> Pixels:
    """Return the luma of RGB or RGBA ``[H, W, C]`` in each color channel. Keeps gray and alpha."""
    color = np.ascontiguousarray(pixels[..., :3])
    luma = np.asarray(Image.fromarray(color).convert("L"))[..., None].repeat(3, 2)
    return np.concatenate([luma, pixels[..., 3:]], 2) if pixels.shape[2] == 4 else luma
