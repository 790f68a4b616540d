"""SRGAN's generator: residual blocks, and pixels that are unfolded (Ledig et al. 2017,
arXiv:1609.04802, figure 4).

Unlike there, what is made is added to the picture enlarged by cubic interpolation, as in `rrdb`.
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
from training.recipe.options import Options


class ResidualBlock(nn.Module):
    """``[N, C, H, W]`` to the same: two 3×3 convolutions, added."""

    def __init__(self, width: int, normalisation: ImageNormalization) -> None:
        super().__init__()
        bias = normalisation == "none"
        self.branch = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=bias),
            *normalization_layers(normalisation, width),
            nn.PReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=bias),
            *normalization_layers(normalisation, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.branch(x)
        return x + added


class SRResNet(nn.Module):
    """Pictures ``[N, given, H, W]`` to ``[N, made, factor·H, factor·W]`` around [-1, 1]."""

    def __init__(
        self,
        shape: ImageToImageShape,
        width: int,
        blocks: int,
        normalisation: ImageNormalization,
    ) -> None:
        super().__init__()
        self.factor = shape.factor
        self.first = nn.Sequential(nn.Conv2d(shape.in_channels, width, 9, padding=4), nn.PReLU())
        self.trunk = nn.Sequential(
            *(ResidualBlock(width, normalisation) for _ in range(blocks)),
            nn.Conv2d(width, width, 3, padding=1, bias=normalisation == "none"),
            *normalization_layers(normalisation, width),
        )
        doublings: list[nn.Module] = []
        for _ in range(_doublings(shape)):
            # Sub-pixel convolution (Shi et al. 2016, arXiv:1609.05158).
            doublings += [nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2), nn.PReLU()]
        self.up = nn.Sequential(*doublings)
        self.last = nn.Conv2d(width, shape.out_channels, 9, padding=4)
        # Little is added at first, so that training begins close to cubic interpolation.
        assert self.last.bias is not None  # noqa: S101 - for the type checker
        with torch.no_grad():
            self.last.weight.mul_(0.1)
            self.last.bias.zero_()

    def forward(self, images: Tensor) -> Tensor:
        x = self.first(images)
        details: Tensor = self.last(self.up(x + self.trunk(x)))
        # In float32: half a level of rounding in the whole picture could be seen.
        smooth = F.interpolate(images.float(), scale_factor=float(self.factor), mode="bicubic")
        return smooth + details


class SRResNetOptions(Options):
    """A generator of residual blocks at the small size."""

    network: Literal["srresnet"]
    width: PositiveInt = 64
    blocks: PositiveInt = 16
    normalisation: Literal["batch", "none"] = "batch"

    def build_image_to_image(self, shape: ImageToImageShape) -> SRResNet:
        """Make the network with fresh weights from the global random state. Raises ValueError."""
        if shape.factor != 1 << _doublings(shape):
            raise ValueError(f"the network srresnet doubles sides; {shape.factor} is no power of 2")
        return SRResNet(shape, self.width, self.blocks, self.normalisation)

    def side_multiple(self, shape: ImageToImageShape) -> int:  # noqa: ARG002 - as all networks have it
        """Return what a side must be a multiple of."""
        return 1

    def min_side(self, shape: ImageToImageShape) -> int:
        """Return the shortest side."""
        return self.side_multiple(shape)

    def receptive_field(self, shape: ImageToImageShape) -> int:
        """Return how far an input pixel may be from what it has a part in, in input pixels."""
        at_input = 4 + 2 * self.blocks + 1
        # A 3×3 convolution before each doubling, and the last, 9×9, behind them all. What is
        # unfolded lies up to half a pixel beside the middle of what it was.
        before = sum(0.5**i for i in range(_doublings(shape)))
        return at_input + math.ceil(before + 4 / shape.factor + 0.5)


def _doublings(shape: ImageToImageShape) -> int:
    return shape.factor.bit_length() - 1
