"""Geometric transforms of generated images (StyleGAN3, arXiv:2106.12423).

A transform is an affine matrix ``[3, 3] float32`` with last row 0, 0, 1. It maps output coordinates
to source coordinates, like the `transform` of NVIDIA's networks: to move the image to the right,
it translates to the left. The image spans one unit in each direction; the origin is its center,
x points right and y down.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]
# Limit of the absolute values: far outside the image, but well within float32 precision.
MAX_ABS_VALUE = 100.0


def as_transform(values: Any) -> Matrix:
    """Convert nested numbers to a transform. Raises ValueError if they are not a transform."""
    with np.errstate(over="ignore"):
        matrix = np.asarray(values, np.float32)
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all():
        raise ValueError("expected 3 rows of 3 finite numbers")
    if not np.array_equal(matrix[2], (0, 0, 1)):
        raise ValueError("expected 0, 0, 1 as the last row")
    if np.abs(matrix).max() > MAX_ABS_VALUE:
        raise ValueError(f"expected numbers from -{MAX_ABS_VALUE:g} to {MAX_ABS_VALUE:g}")
    return matrix


def motion_transform(translate: Sequence[float], rotate: float, scale: float) -> Matrix:
    """Return the transform that scales and rotates an image about its center, then moves it.

    `scale` is a factor, `rotate` is in degrees counterclockwise, and `translate` is (right, down)
    as a fraction of the image's side. Raises ValueError if a value exceeds the supported range.
    """
    angle = math.radians(rotate)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    back = turn.T / scale
    matrix = np.eye(3)
    matrix[:2, :2] = back
    matrix[:2, 2] = -back @ np.asarray(translate, np.float64)
    return as_transform(matrix)


def identity_transforms(count: int) -> Matrix:
    """Return `count` identity transforms ``[count, 3, 3]``."""
    return np.broadcast_to(np.eye(3, dtype=np.float32), (count, 3, 3))
