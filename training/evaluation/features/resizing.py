"""Resizing images to the input size of a feature network.

A different filter can change a Fréchet distance as much as a better generator (Parmar et al. 2021,
arXiv:2104.11222). Generated and real images are therefore resized with the same filter, and the
name of the filter is reported with every metric.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

# `bicubic` and `bilinear` widen their support when they shrink, like Pillow. `tensorflow` is the
# bilinear resizing of TensorFlow 1 without aligned corners, used for published FID values.
Resizing = Literal["bicubic", "bilinear", "tensorflow"]
TITLES: dict[Resizing, str] = {
    "bicubic": "antialiased bicubic",
    "bilinear": "antialiased bilinear",
    "tensorflow": "TensorFlow 1 bilinear",
}


def resize(pixels: NDArray[np.uint8], side: int, kind: Resizing) -> NDArray[np.float32]:
    """Resize ``[N, H, W, C] uint8`` to ``[N, C, side, side] float32`` in [0, 255].

    Values are not rounded. Values of the bicubic filter outside the range are clipped.
    """
    count, height, width, channels = pixels.shape
    rows, columns = weights(height, side, kind), weights(width, side, kind)
    x = rows @ pixels.astype(np.float32).reshape(count, height, width * channels)
    x = x.reshape(count, side, width, channels).transpose(0, 3, 1, 2) @ columns.T
    clipped: NDArray[np.float32] = np.clip(x, 0, 255)
    return clipped


@cache
def weights(before: int, after: int, kind: Resizing) -> NDArray[np.float32]:
    """Return the matrix ``[after, before]`` that resizes one axis."""
    scale = before / after
    positions = np.arange(before)
    if kind == "tensorflow":
        centers, support = np.arange(after) * scale, 1.0
        # The last pixel is repeated beyond the edge.
        centers = np.minimum(centers, before - 1)
    else:
        centers = (np.arange(after) + 0.5) * scale - 0.5
        support = max(scale, 1.0)
    distances = np.abs(positions[None, :] - centers[:, None]) / support
    matrix = _cubic(distances) if kind == "bicubic" else np.maximum(1 - distances, 0)
    matrix /= matrix.sum(axis=1, keepdims=True)
    exact: NDArray[np.float32] = matrix.astype(np.float32)
    return exact


def _cubic(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic kernel with a = -1/2."""
    x = distances
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
