"""Transforms: moving and turning what a picture shows (StyleGAN3, arXiv:2106.12423).

A transform is a matrix ``[3, 3] float32`` whose last row is 0, 0, 1. It leads from a place in the
picture that is made to the place whose content is shown there, as the `transform` of NVIDIA's
networks does: of a picture that moves to the right it moves to the left. A picture is 1 wide and 1
high, (0, 0) is its middle, x goes to the right and y down.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]
# Far beyond any picture, and far from what float32 cannot tell apart.
MOST = 100.0


def as_transform(values: Any) -> Matrix:
    """Return a transform of nested numbers. Raises ValueError for what is none."""
    with np.errstate(over="ignore"):
        made = np.asarray(values, np.float32)
    if made.shape != (3, 3) or not np.isfinite(made).all():
        raise ValueError("expected 3 rows of 3 finite numbers")
    if not np.array_equal(made[2], (0, 0, 1)):
        raise ValueError("expected 0, 0, 1 as the last row")
    if np.abs(made).max() > MOST:
        raise ValueError(f"expected numbers from -{MOST:g} to {MOST:g}")
    return made


def motion_transform(translate: Sequence[float], rotate: float, scale: float) -> Matrix:
    """Return the transform of a picture that is made `scale` times as large, turned by `rotate`
    degrees, against the clock, about its middle, and then moved by `translate` (right, down), in
    shares of its side.

    Raises ValueError for a picture that would be moved or shrunk too far.
    """
    angle = math.radians(rotate)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    back = turn.T / scale
    made = np.eye(3)
    made[:2, :2] = back
    made[:2, 2] = -back @ np.asarray(translate, np.float64)
    return as_transform(made)


def identity_transforms(count: int) -> Matrix:
    """Return transforms ``[count, 3, 3]`` that leave pictures where they are."""
    return np.broadcast_to(np.eye(3, dtype=np.float32), (count, 3, 3))
