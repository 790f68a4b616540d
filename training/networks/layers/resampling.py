"""Halving and doubling pictures with StyleGAN's filter, as plain depthwise convolutions.

The filter is [1, 3, 3, 1] in both directions: Karras et al. 2019, arXiv:1912.04958, appendix B.
No extension is compiled, and everything exports.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_TAPS = (1.0, 3.0, 3.0, 1.0)


class Blur(nn.Module):
    """Filters ``[N, C, H, W]`` with zeros `pad` wide around it: ``H + 2 pad - 3``."""

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
    """Doubles ``[N, C, H, W]``: every value spread by the filter, the mean kept."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", _kernel(4.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        kernel = self.kernel.to(x.dtype).expand(channels, 1, -1, -1)
        return F.conv_transpose2d(x, kernel, stride=2, padding=1, groups=channels)


class Downsample(nn.Module):
    """Halves ``[N, C, H, W]``: filtered, then every other value."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", _kernel(1.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        kernel = self.kernel.to(x.dtype).expand(channels, 1, -1, -1)
        return F.conv2d(x, kernel, stride=2, padding=1, groups=channels)


def _kernel(gain: float) -> Tensor:
    """Return the filter ``[1, 1, 4, 4]``, its values adding up to `gain`."""
    taps = torch.tensor(_TAPS)
    kernel = taps[:, None] * taps[None, :]
    return (kernel * (gain / kernel.sum()))[None, None]
