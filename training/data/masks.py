"""Holes to be filled: boxes, and strokes as of a brush. White, 255, is to be filled.

Masks are ``[H, W] uint8`` of 0 and 255, and functions of the generator that draws.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.uint8]


def box_mask(height: int, width: int, share: float, rng: np.random.Generator) -> Mask:
    """Return one box that covers a `share` of the picture, as nearly as whole pixels allow."""
    area = share * height * width
    # From a tall box to a wide one, as far as the picture has room.
    least, most = max(area / height, 1.0), min(float(width), area)
    across = np.exp(rng.uniform(np.log(least), np.log(max(most, least))))
    w = int(np.clip(round(across), 1, width))
    h = int(np.clip(round(area / w), 1, height))
    y, x = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
    mask = np.zeros((height, width), np.uint8)
    mask[y : y + h, x : x + w] = 255
    return mask


def stroke_mask(height: int, width: int, share: float, rng: np.random.Generator) -> Mask:
    """Return strokes of a brush that cover a `share` of the picture, to the pixel.

    After Yu et al. 2019, arXiv:1806.03589, section 3.4: from a point the brush goes on in a
    direction that turns, for some way, and then begins anew.
    """
    wanted = round(share * height * width)
    # When each pixel is first covered; the brush stops in the middle of a dab.
    covered = np.full((height, width), np.inf)
    rows, columns = np.mgrid[:height, :width]
    side = min(height, width)
    time = 0
    while np.isfinite(covered).sum() < wanted:
        y, x = rng.uniform(0, height), rng.uniform(0, width)
        angle, radius = rng.uniform(0, 2 * np.pi), side * rng.uniform(0.04, 0.1)
        for _ in range(rng.integers(4, 12)):
            far = (rows + 0.5 - y) ** 2 + (columns + 0.5 - x) ** 2
            fresh = (far <= radius**2) & np.isinf(covered)
            # From the middle of the dab outwards.
            covered[fresh] = time + far[fresh] / (radius**2 + 1)
            time += 1
            angle += rng.normal(0, 0.5)
            step = radius * rng.uniform(0.8, 1.6)
            y = float(np.clip(y + step * np.sin(angle), 0, height))
            x = float(np.clip(x + step * np.cos(angle), 0, width))
    first = np.argsort(covered, axis=None, kind="stable")[:wanted]
    mask = np.zeros(height * width, np.uint8)
    mask[first] = 255
    return mask.reshape(height, width)
