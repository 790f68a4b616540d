"""Layers with an equalized learning rate (Karras et al. 2017, arXiv:1710.10196, section 4.1).

Weights are initialized from N(0, 1) and scaled in the forward pass. Optimizers that normalize by
the gradient's magnitude, such as Adam, then update all layers at the same relative speed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class EqualizedLinear(nn.Module):
    """Maps ``[N, fan_in]`` to ``[N, fan_out]``; `rate` multiplies the learning rate."""

    def __init__(self, fan_in: int, fan_out: int, bias: float = 0.0, rate: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(fan_out, fan_in) / rate)
        self.bias = nn.Parameter(torch.full((fan_out,), bias / rate))
        self.scale, self.rate = rate / math.sqrt(fan_in), rate

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.bias * self.rate)


class EqualizedConv2d(nn.Module):
    """Maps ``[N, fan_in, H, W]`` to ``[N, fan_out, H', W']``.

    The zero padding is "same" for stride 1. Strided convolutions have no padding.
    """

    def __init__(
        self, fan_in: int, fan_out: int, kernel: int, *, stride: int = 1, bias: bool = True
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(fan_out, fan_in, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(fan_out)) if bias else None
        self.scale = 1 / math.sqrt(fan_in * kernel**2)
        self.stride = stride
        # A strided convolution follows a blur, which pads its input.
        self.padding = kernel // 2 if stride == 1 else 0

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight * self.scale
        return F.conv2d(x, weight, self.bias, stride=self.stride, padding=self.padding)


def leaky_relu(x: Tensor) -> Tensor:
    """LeakyReLU with slope 0.2, scaled by √2 to preserve the variance of its input."""
    return F.leaky_relu(x, 0.2) * math.sqrt(2)
