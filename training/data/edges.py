"""Line drawings made from pictures: Canny's edges (1986, doi:10.1109/TPAMI.1986.4767851)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

# Rounds in which a strong edge may reach along weak ones, a pixel a round.
_REACH = 24


def canny_edges(pixels: Tensor, sigma: Tensor, threshold: Tensor) -> Tensor:
    """Return drawings ``[N, 1, H, W] uint8``, black lines a pixel wide on white.

    `pixels` are ``[N, C, H, W] uint8``, smoothed by a Gaussian of `sigma` ``[N]`` pixels; a line
    begins where the steepest channel rises by `threshold` ``[N]`` levels a pixel, and is followed
    down to 0.4 of that.
    """
    smooth = _blurred(pixels.float(), sigma)
    down, across = _sobel(smooth)
    # Of the channels, the one that is steepest at a pixel speaks for it.
    steep = (down.square() + across.square()).argmax(1, keepdim=True)
    down, across = down.gather(1, steep)[:, 0], across.gather(1, steep)[:, 0]
    norm = torch.hypot(down, across)
    ridge = norm * _is_ridge(norm, down, across)
    weak = ridge > 0.4 * threshold[:, None, None]
    line = (ridge > threshold[:, None, None]).float()
    for _ in range(_REACH):
        line = F.max_pool2d(line[:, None], 3, 1, 1)[:, 0] * weak
    return ((1 - line) * 255).byte()[:, None]


def _blurred(images: Tensor, sigma: Tensor) -> Tensor:
    """Smooth each picture by a Gaussian of its own."""
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
    """Return how much each pixel rises downwards and to the right, in levels a pixel."""
    kernel = torch.tensor([[-1.0, -2, -1], [0, 0, 0], [1, 2, 1]]) / 8
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate").flatten(0, 1)[:, None]
    down = F.conv2d(padded, kernel[None, None]).reshape(images.shape)
    return down, F.conv2d(padded, kernel.T[None, None]).reshape(images.shape)


def _is_ridge(norm: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Whether a pixel is as steep as both its neighbours along the gradient."""
    height, width = norm.shape[1:]
    padded = F.pad(norm[:, None], (1, 1, 1, 1))[:, 0]

    def neighbour(y: int, x: int) -> Tensor:
        return padded[:, 1 + y : 1 + y + height, 1 + x : 1 + x + width]

    angle = torch.remainder(torch.atan2(down, across), math.pi)
    sector = torch.remainder((angle / (math.pi / 4)).round(), 4)
    is_ridge = torch.zeros_like(norm, dtype=torch.bool)
    for i, (y, x) in enumerate(((0, 1), (1, 1), (1, 0), (1, -1))):
        # One side strictly, so that of two equal neighbours one is left.
        steepest = (norm > neighbour(y, x)) & (norm >= neighbour(-y, -x))
        is_ridge |= (sector == i) & steepest
    return is_ridge
