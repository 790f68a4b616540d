"""ESRGAN's generator: residual-in-residual dense blocks (Wang et al. 2018, arXiv:1809.00219).

Section 3.1: no normalisation, dense connections within blocks, residual ones around them scaled by
0.2. Unlike there, what is made is added to the picture enlarged by cubic interpolation, so that a
network that has learned nothing yet is as good as that.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from training.networks.layers.shapes import ImageToImageShape
from training.recipe.options import Options

_SLOPE = 0.2
_RESIDUAL_SCALE = 0.2


class DenseBlock(nn.Module):
    """``[N, C, H, W]`` to the same: five 3×3 convolutions, each of all that went before."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.grow = nn.ModuleList(
            nn.Conv2d(width + i * growth, growth, 3, padding=1) for i in range(4)
        )
        self.reduce = nn.Conv2d(width + 4 * growth, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        seen = x
        for convolution in self.grow:
            seen = torch.cat([seen, F.leaky_relu(convolution(seen), _SLOPE)], 1)
        added: Tensor = self.reduce(seen)
        return x + _RESIDUAL_SCALE * added


class ResidualInResidual(nn.Module):
    """``[N, C, H, W]`` to the same: three dense blocks, and a residual around them."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(DenseBlock(width, growth) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.blocks(x)
        return x + _RESIDUAL_SCALE * added


class RRDBNet(nn.Module):
    """Pictures ``[N, given, H, W]`` to ``[N, made, factor·H, factor·W]`` around [-1, 1]."""

    def __init__(self, shape: ImageToImageShape, width: int, growth: int, blocks: int) -> None:
        super().__init__()
        self.factor = shape.factor
        self.first = nn.Conv2d(shape.in_channels, width, 3, padding=1)
        self.trunk = nn.Sequential(
            *(ResidualInResidual(width, growth) for _ in range(blocks)),
            nn.Conv2d(width, width, 3, padding=1),
        )
        doublings = shape.factor.bit_length() - 1
        self.up = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(doublings))
        self.last = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.LeakyReLU(_SLOPE),
            nn.Conv2d(width, shape.out_channels, 3, padding=1),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                # A tenth of the usual variance, as deep residual networks need (section 3.1).
                nn.init.kaiming_normal_(module.weight, _SLOPE)
                with torch.no_grad():
                    module.weight.mul_(0.3)
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        x = self.first(images)
        x = x + self.trunk(x)
        for convolution in self.up:
            x = F.leaky_relu(convolution(F.interpolate(x, scale_factor=2.0)), _SLOPE)
        details: Tensor = self.last(x)
        scale = float(self.factor)
        # In float32: half a level of rounding in the whole picture could be seen.
        smooth = F.interpolate(images.float(), scale_factor=scale, mode="bicubic")
        return smooth + details


class RRDBOptions(Options):
    """A generator of residual-in-residual dense blocks."""

    network: Literal["rrdb"]
    width: PositiveInt = 64
    growth: PositiveInt = 32
    blocks: PositiveInt = 23

    def build_image_to_image(self, shape: ImageToImageShape) -> RRDBNet:
        """Make the network with fresh weights from the global random state."""
        return RRDBNet(shape, self.width, self.growth, self.blocks)

    def side_multiple(self, shape: ImageToImageShape) -> int:  # noqa: ARG002 - as all networks have it
        """Return what a side must be a multiple of."""
        return 1

    def min_side(self, shape: ImageToImageShape) -> int:
        """Return the shortest side."""
        return self.side_multiple(shape)

    def receptive_field(self, shape: ImageToImageShape) -> int:
        """Return how far an input pixel may be from what it has a part in, in input pixels."""
        at_input = 1 + self.blocks * 15 + 1
        # Behind each doubling a 3×3 convolution sees half as far.
        doublings = shape.factor.bit_length() - 1
        after = sum(1.5 / 2**i for i in range(1, doublings + 1)) + 2 / shape.factor
        return at_input + int(after) + 2
