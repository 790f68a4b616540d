"""ESRGAN's generator: residual-in-residual dense blocks (Wang et al. 2018, arXiv:1809.00219).

Section 3.1: no normalization, dense connections within blocks, and residual connections that scale
the blocks by 0.2. Unlike in the paper, the network's output is added to the bicubically upsampled
input, so that an untrained network approximates bicubic interpolation.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from training.networks.layers.shapes import ImageToImageShape
from training.networks.options import ImageToImageOptions

_SLOPE = 0.2
_RESIDUAL_SCALE = 0.2


class DenseBlock(nn.Module):
    """Five densely connected 3×3 convolutions with a skip; keeps the shape ``[N, C, H, W]``."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.grow = nn.ModuleList(
            nn.Conv2d(width + i * growth, growth, 3, padding=1) for i in range(4)
        )
        self.reduce = nn.Conv2d(width + 4 * growth, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        features = x
        for convolution in self.grow:
            features = torch.cat([features, F.leaky_relu(convolution(features), _SLOPE)], 1)
        residual: Tensor = self.reduce(features)
        return x + _RESIDUAL_SCALE * residual


class ResidualInResidual(nn.Module):
    """Three dense blocks with a skip connection around them; keeps the shape ``[N, C, H, W]``."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(DenseBlock(width, growth) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.blocks(x)
        return x + _RESIDUAL_SCALE * residual


class RRDBNet(nn.Module):
    """Maps images ``[N, in_channels, H, W]`` to ``[N, out_channels, factor·H, factor·W]``.

    The output is approximately in [-1, 1], and is not clamped.
    """

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
                # A tenth of the usual variance, for deep residual networks (section 3.1).
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
        # In float32: with lower precision, rounding errors would reach half a gray level.
        bicubic = F.interpolate(images.float(), scale_factor=scale, mode="bicubic")
        return bicubic + details


class RRDBOptions(ImageToImageOptions):
    """A generator of residual-in-residual dense blocks."""

    network: Literal["rrdb"]
    width: PositiveInt = 64
    growth: PositiveInt = 32
    blocks: PositiveInt = 23

    def build(self, shape: ImageToImageShape) -> RRDBNet:
        """Build the network, initialized from the global random state."""
        return RRDBNet(shape, self.width, self.growth, self.blocks)

    def side_multiple(self, shape: ImageToImageShape) -> int:  # noqa: ARG002 - same interface for all networks
        """Return the required divisor of the input sides, in pixels."""
        return 1

    def receptive_field(self, shape: ImageToImageShape) -> int:
        """Return the receptive field's radius in input pixels."""
        at_input = 1 + self.blocks * 15 + 1
        # With each upsampling, a 3×3 convolution covers half as many input pixels.
        doublings = shape.factor.bit_length() - 1
        after = sum(1.5 / 2**i for i in range(1, doublings + 1)) + 2 / shape.factor
        return at_input + int(after) + 2
