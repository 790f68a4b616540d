"""Random masks for inpainting: boxes and free-form brush strokes.

Masks are ``[H, W] uint8``: 255 marks pixels to fill, 0 known pixels. They are deterministic given
the random generator `rng`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.uint8]


def box_mask(height: int, width: int, share: float, rng: np.random.Generator) -> Mask:
    """Return one box that covers the fraction `share` of the image, to the nearest pixel."""
    area = share * height * width
    # The widths at which a box of this area fits, sampled log-uniformly.
    min_width, max_width = max(area / height, 1.0), min(float(width), area)
    box_width = np.exp(rng.uniform(np.log(min_width), np.log(max(max_width, min_width))))
    w = int(np.clip(round(box_width), 1, width))
    h = int(np.clip(round(area / w), 1, height))
    y, x = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
    mask = np.zeros((height, width), np.uint8)
    mask[y : y + h, x : x + w] = 255
    return mask


def stroke_mask(height: int, width: int, share: float, rng: np.random.Generator) -> Mask:
    """Return brush strokes that cover exactly the fraction `share` of the image.

    Yu et al. 2019, arXiv:1806.03589, section 3.4: each stroke starts at a random point and moves on
    in a randomly turning direction for a random number of steps.
    """
    target = round(share * height * width)
    # Time at which the brush first covers each pixel. The mask takes the first `target` pixels.
    covered = np.full((height, width), np.inf)
    rows, columns = np.mgrid[:height, :width]
    side = min(height, width)
    time = 0
    while np.isfinite(covered).sum() < target:
        y, x = rng.uniform(0, height), rng.uniform(0, width)
        angle, radius = rng.uniform(0, 2 * np.pi), side * rng.uniform(0.04, 0.1)
        for _ in range(rng.integers(4, 12)):
            distance = (rows + 0.5 - y) ** 2 + (columns + 0.5 - x) ** 2
            new = (distance <= radius**2) & np.isinf(covered)
            # Within one step, pixels are covered from the center outwards.
            covered[new] = time + distance[new] / (radius**2 + 1)
            time += 1
            angle += rng.normal(0, 0.5)
            step = radius * rng.uniform(0.8, 1.6)
            y = float(np.clip(y + step * np.sin(angle), 0, height))
            x = float(np.clip(x + step * np.cos(angle), 0, width))
    first = np.argsort(covered, axis=None, kind="stable")[:target]
    mask = np.zeros(height * width, np.uint8)
    mask[first] = 255
    return mask.reshape(height, width)
