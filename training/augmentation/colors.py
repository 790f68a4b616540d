"""ADA's color transforms (Karras et al. 2020, arXiv:2006.06676, appendix B)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def change_colors(images: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply `change` to the color channels of images. Alpha, the fourth channel, stays."""
    if images.shape[1] != 4:
        return change(images)
    return torch.cat([change(images[:, :3]), images[:, 3:]], 1)


def transform_colors(images: Tensor, probability: float) -> Tensor:
    """Apply each transform to each image with `probability`, in the order of the paper.

    Brightness, contrast, luma flip, and for colored images hue and saturation.
    """
    count, device = len(images), images.device

    def normal() -> Tensor:
        return torch.randn(count, 1, 1, 1, device=device)

    def uniform() -> Tensor:
        return torch.rand(count, 1, 1, 1, device=device)

    def maybe(value: Tensor, neutral: float) -> Tensor:
        return value.where(uniform() < probability, neutral)

    return apply_colors(
        images,
        brightness=maybe(normal() * 0.2, 0.0),
        contrast=maybe(torch.exp2(normal() * 0.5), 1.0),
        luma_flip=maybe((uniform() < 0.5).float(), 0.0),
        hue=maybe((uniform() * 2 - 1) * math.pi, 0.0),
        saturation=maybe(torch.exp2(normal()), 1.0),
    )


def apply_colors(
    images: Tensor,
    *,
    brightness: Tensor,
    contrast: Tensor,
    luma_flip: Tensor,
    hue: Tensor,
    saturation: Tensor,
) -> Tensor:
    """Apply the transforms in the order of their arguments, each ``[N, 1, 1, 1]``.

    Where `luma_flip` is 1, colors are mirrored in the plane through 0 that is perpendicular to the
    gray axis (1, 1, 1). `hue` is the angle in radians of a rotation about this axis. Images with
    one channel have neither hue nor saturation.
    """
    images = (images + brightness) * contrast
    gray = images.mean(1, keepdim=True)
    flipped = gray * (1 - 2 * luma_flip)
    if images.shape[1] == 1:
        return flipped
    # Hue and saturation change only the part of a color that is perpendicular to the gray axis.
    colored = images - gray
    # Rodrigues' formula; the cross product of the axis (1, 1, 1)/√3 with the color.
    across = (images.roll(1, 1) - images.roll(-1, 1)) / math.sqrt(3)
    return flipped + (colored * hue.cos() + across * hue.sin()) * saturation
