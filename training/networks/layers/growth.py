"""Progressive growing: networks that play at a lower resolution first.

Karras et al. 2017, arXiv:1710.10196, section 2 and figure 2. Pictures are doubled to the nearest
pixel and halved by means of four, so that halving undoes doubling: of the doubled pictures that a
resolution begins with, a discriminator says what it said of the small ones.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F


class Growth(NamedTuple):
    """How far a network has grown: the side it plays at, and how far that has faded in.

    At an `alpha` of 0 pictures are those of half the side, doubled; at 1 they are all its own.
    """

    side: int
    alpha: float


def upsample_nearest(images: Tensor) -> Tensor:
    """Double ``[N, C, H, W]``, each value four times."""
    return F.interpolate(images, scale_factor=2, mode="nearest")


def downsample_average(images: Tensor) -> Tensor:
    """Halve ``[N, C, H, W]``, each value the mean of four."""
    return F.avg_pool2d(images, 2)


def match_growth(images: Tensor, growth: Growth) -> Tensor:
    """Return real pictures ``[N, C, H, W]`` as they are to look at this growth."""
    images = F.avg_pool2d(images, images.shape[-1] // growth.side)
    if growth.alpha == 1:
        return images
    return upsample_nearest(downsample_average(images)).lerp(images, growth.alpha)
