"""Line drawings from images: the Canny edge detector (1986, doi:10.1109/TPAMI.1986.4767851)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

# Number of pixels that a strong edge can extend along weak ones.
_MAX_EXTENSION = 24


def canny_edges(pixels: Tensor, sigma: Tensor, threshold: Tensor) -> Tensor:
    """Return line drawings ``[N, 1, H, W] uint8``: black lines, one pixel wide, on white.

    `pixels` ``[N, C, H, W] uint8`` are smoothed by a Gaussian with `sigma` ``[N]`` in pixels. A
    line starts where the gradient of any channel exceeds `threshold` ``[N]``, in gray levels per
    pixel, and continues where it exceeds 0.4 times the threshold (hysteresis).
    """
    smooth = _gaussian_blur(pixels.float(), sigma)
    dy, dx = _sobel(smooth)
    # The channel with the steepest gradient at each pixel.
    steepest = (dy.square() + dx.square()).argmax(1, keepdim=True)
    dy, dx = dy.gather(1, steepest)[:, 0], dx.gather(1, steepest)[:, 0]
    norm = torch.hypot(dy, dx)
    ridge = norm * _is_ridge(norm, dy, dx)
    weak = ridge > 0.4 * threshold[:, None, None]
    line = (ridge > threshold[:, None, None]).float()
    for _ in range(_MAX_EXTENSION):
        line = F.max_pool2d(line[:, None], 3, 1, 1)[:, 0] * weak
    return ((1 - line) * 255).byte()[:, None]


def _gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur ``[N, C, H, W]`` with a Gaussian whose `sigma` ``[N]`` differs between images."""
    radius = max(math.ceil(3 * float(sigma.max())), 1)
    steps = torch.arange(-radius, radius + 1)
    kernels = torch.exp(-(steps**2) / (2 * sigma.clamp(min=1e-3)[:, None] ** 2))
    kernels = kernels / kernels.sum(1, keepdim=True)
    count, channels, height, width = images.shape
    kernels = kernels.repeat_interleave(channels, 0)
    x = images.reshape(1, count * channels, height, width)
    x = F.pad(x, (radius, radius, radius, radius), mode="replicate")
    x = F.conv2d(x, kernels[:, None, :, None], groups=count * channels)
    x = F.conv2d(x, kernels[:, None, None, :], groups=count * channels)
    return x.reshape(images.shape)


def _sobel(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients (dy, dx) of ``[N, C, H, W]``, in gray levels per pixel."""
    kernel = torch.tensor([[-1.0, -2, -1], [0, 0, 0], [1, 2, 1]]) / 8
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate").flatten(0, 1)[:, None]
    dy = F.conv2d(padded, kernel[None, None]).reshape(images.shape)
    return dy, F.conv2d(padded, kernel.T[None, None]).reshape(images.shape)


def _is_ridge(norm: Tensor, dy: Tensor, dx: Tensor) -> Tensor:
    """Non-maximum suppression: whether no neighbor along the gradient is steeper ``[N, H, W]``."""
    height, width = norm.shape[1:]
    padded = F.pad(norm[:, None], (1, 1, 1, 1))[:, 0]

    def neighbor(y: int, x: int) -> Tensor:
        return padded[:, 1 + y : 1 + y + height, 1 + x : 1 + x + width]

    angle = torch.remainder(torch.atan2(dy, dx), math.pi)
    sector = torch.remainder((angle / (math.pi / 4)).round(), 4)
    is_ridge = torch.zeros_like(norm, dtype=torch.bool)
    for i, (y, x) in enumerate(((0, 1), (1, 1), (1, 0), (1, -1))):
        # Strict on one side only, so that one of two equal neighbors remains.
        is_maximum = (norm > neighbor(y, x)) & (norm >= neighbor(-y, -x))
        is_ridge |= (sector == i) & is_maximum
    return is_ridge
