"""Progressive growing: training starts at a low resolution and fades in higher ones.

Karras et al. 2017, arXiv:1710.10196, section 2 and figure 2. Upsampling is nearest neighbor, and
downsampling averages 2×2 pixels, so downsampling inverts upsampling. When a resolution starts, the
discriminator therefore returns the same logit for an image and for its upsampled version.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from training.networks.layers.resampling import downsample_average, upsample_nearest


class Growth(NamedTuple):
    """Resolution of a growing network: `side` in pixels, and the blend weight `alpha`.

    With `alpha` 0, images are upsampled from half the side. With `alpha` 1, the resolution has
    completely faded in.
    """

    side: int
    alpha: float


def match_growth(images: Tensor, growth: Growth) -> Tensor:
    """Resize and blend real images ``[N, C, H, W]`` to match `growth`: ``[N, C, side, side]``."""
    images = F.avg_pool2d(images, images.shape[-1] // growth.side)
    if growth.alpha == 1:
        return images
    return upsample_nearest(downsample_average(images)).lerp(images, growth.alpha)
