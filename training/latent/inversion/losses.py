"""Losses between reconstructions and the images to invert, ``[N, C, H, W]`` in [-1, 1]."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# Larger images are reduced for the feature loss, which would take most of the time.
_FEATURE_SIDE = 64


def pixel_loss(images: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared difference of each image, ``[N]``.

    A value beyond black or white is right where the target is black or white: it is clipped.
    """
    error = images - target
    clipped = ((target >= 1) & (images > 1)) | ((target <= -1) & (images < -1))
    return torch.where(clipped, 0.0, error).square().flatten(1).mean(1)


def for_features(images: Tensor) -> Tensor:
    """Prepare images ``[N, C, H, W]`` for the feature loss: clipped, RGB, and not too large."""
    images = images[:, :3].clamp(-1, 1)
    factor = min(images.shape[2:]) // _FEATURE_SIDE
    return F.avg_pool2d(images, factor) if factor > 1 else images
