"""Up- and downsampling by 2: unfiltered, and with StyleGAN's filter as depthwise convolutions.

StyleGAN's separable filter is [1, 3, 3, 1] (Karras et al. 2019, arXiv:1912.04958, appendix B). No
compiled extension is needed, and all layers can be exported to ONNX.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_TAPS = (1.0, 3.0, 3.0, 1.0)


def upsample_nearest(images: Tensor) -> Tensor:
    """Upsample by nearest neighbor: ``[N, C, H, W]`` to ``[N, C, 2H, 2W]``."""
    return F.interpolate(images, scale_factor=2, mode="nearest")


def downsample_average(images: Tensor) -> Tensor:
    """Downsample by averaging 2×2 pixels: ``[N, C, H, W]`` to ``[N, C, H/2, W/2]``."""
    return F.avg_pool2d(images, 2)


class Blur(nn.Module):
    """Pads ``[N, C, H, W]`` with `pad` zeros and filters it: ``[N, C, H + 2·pad - 3, …]``."""

    kernel: Tensor

    def __init__(self, pad: int, gain: float = 1.0) -> None:
        super().__init__()
        self.pad = pad
        self.register_buffer("kernel", _kernel(gain), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        kernel = self.kernel.to(x.dtype).expand(channels, 1, -1, -1)
        return F.conv2d(x, kernel, padding=self.pad, groups=channels)


class Upsample(nn.Module):
    """Upsamples by 2 with the filter: ``[N, C, H, W]`` to ``[N, C, 2H, 2W]``. Keeps the mean."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", _kernel(4.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        kernel = self.kernel.to(x.dtype).expand(channels, 1, -1, -1)
        return F.conv_transpose2d(x, kernel, stride=2, padding=1, groups=channels)


class Downsample(nn.Module):
    """Filters and keeps every second pixel: ``[N, C, H, W]`` to ``[N, C, H/2, W/2]``."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", _kernel(1.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        kernel = self.kernel.to(x.dtype).expand(channels, 1, -1, -1)
        return F.conv2d(x, kernel, stride=2, padding=1, groups=channels)


def _kernel(gain: float) -> Tensor:
    """Return the filter ``[1, 1, 4, 4]``; its values sum to `gain`."""
    taps = torch.tensor(_TAPS)
    kernel = taps[:, None] * taps[None, :]
    return (kernel * (gain / kernel.sum()))[None, None]
