"""SRGAN's generator, SRResNet (Ledig et al. 2017, arXiv:1609.04802, figure 4).

Residual blocks at the low resolution are followed by sub-pixel convolutions. Unlike in the paper,
the network's output is added to the bicubically upsampled input, as in `rrdb`.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from training.networks.layers.normalization import ImageNormalization, normalization_layers
from training.networks.layers.shapes import ImageToImageShape
from training.networks.options import ImageToImageOptions


class SRResNetBlock(nn.Module):
    """Two 3×3 convolutions with a skip connection; keeps the shape ``[N, C, H, W]``."""

    def __init__(self, width: int, normalization: ImageNormalization) -> None:
        super().__init__()
        bias = normalization == "none"
        self.branch = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=bias),
            *normalization_layers(normalization, width),
            nn.PReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=bias),
            *normalization_layers(normalization, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.branch(x)
        return x + residual


class SRResNet(nn.Module):
    """Maps images ``[N, in_channels, H, W]`` to ``[N, out_channels, factor·H, factor·W]``.

    The output is approximately in [-1, 1], and is not clamped.
    """

    def __init__(
        self,
        shape: ImageToImageShape,
        width: int,
        blocks: int,
        normalization: ImageNormalization,
    ) -> None:
        super().__init__()
        self.factor = shape.factor
        self.first = nn.Sequential(nn.Conv2d(shape.in_channels, width, 9, padding=4), nn.PReLU())
        self.trunk = nn.Sequential(
            *(SRResNetBlock(width, normalization) for _ in range(blocks)),
            nn.Conv2d(width, width, 3, padding=1, bias=normalization == "none"),
            *normalization_layers(normalization, width),
        )
        up: list[nn.Module] = []
        for _ in range(_doublings(shape)):
            # Sub-pixel convolution (Shi et al. 2016, arXiv:1609.05158).
            up += [nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2), nn.PReLU()]
        self.up = nn.Sequential(*up)
        self.last = nn.Conv2d(width, shape.out_channels, 9, padding=4)
        # Small initial weights, so that training starts close to bicubic interpolation.
        assert self.last.bias is not None  # noqa: S101 - for the type checker
        with torch.no_grad():
            self.last.weight.mul_(0.1)
            self.last.bias.zero_()

    def forward(self, images: Tensor) -> Tensor:
        x = self.first(images)
        details: Tensor = self.last(self.up(x + self.trunk(x)))
        # In float32: with lower precision, rounding errors would reach half a gray level.
        bicubic = F.interpolate(images.float(), scale_factor=float(self.factor), mode="bicubic")
        return bicubic + details


class SRResNetOptions(ImageToImageOptions):
    """A generator of residual blocks at the low resolution."""

    network: Literal["srresnet"]
    width: PositiveInt = 64
    blocks: PositiveInt = 16
    normalisation: Literal["batch", "none"] = "batch"

    def build(self, shape: ImageToImageShape) -> SRResNet:
        """Build the network, initialized from the global random state. Raises ValueError."""
        if shape.factor != 1 << _doublings(shape):
            raise ValueError(f"srresnet needs a power of 2 as its factor; got {shape.factor}")
        return SRResNet(shape, self.width, self.blocks, self.normalisation)

    def side_multiple(self, shape: ImageToImageShape) -> int:  # noqa: ARG002 - same interface for all networks
        """Return the required divisor of the input sides, in pixels."""
        return 1

    def receptive_field(self, shape: ImageToImageShape) -> int:
        """Return the receptive field's radius in input pixels."""
        at_input = 4 + 2 * self.blocks + 1
        # A 3×3 convolution before each upsampling and a final 9×9 one. Pixel shuffling moves
        # values by up to half an input pixel.
        upsampling = sum(0.5**i for i in range(_doublings(shape)))
        return at_input + math.ceil(upsampling + 4 / shape.factor + 0.5)


def _doublings(shape: ImageToImageShape) -> int:
    return shape.factor.bit_length() - 1
