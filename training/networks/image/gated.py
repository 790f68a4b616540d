"""A generator of gated convolutions for inpainting (Yu et al. 2019, arXiv:1806.03589, section 3.1).

Every feature is multiplied by a learned gate, so that the network can distinguish known pixels from
holes. The network has two strided convolutions, dilated convolutions at a quarter of the
resolution, two upsampling convolutions, and skip connections between equal resolutions.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from training.networks.layers.shapes import ImageToImageShape
from training.networks.options import ImageToImageOptions


class GatedConvolution(nn.Module):
    """Computes ELU(features) · sigmoid(gates): ``[N, fan_in, H, W]`` to ``[N, fan_out, h, w]``."""

    def __init__(
        self, fan_in: int, fan_out: int, kernel: int = 3, stride: int = 1, dilation: int = 1
    ) -> None:
        super().__init__()
        padding = dilation * (kernel - 1) // 2
        self.both = nn.Conv2d(fan_in, 2 * fan_out, kernel, stride, padding, dilation)
        nn.init.kaiming_normal_(self.both.weight, nonlinearity="relu")
        assert self.both.bias is not None  # noqa: S101 - for the type checker
        nn.init.zeros_(self.both.bias)

    def forward(self, x: Tensor) -> Tensor:
        features, gates = self.both(x).chunk(2, 1)
        gated: Tensor = F.elu(features) * gates.sigmoid()
        return gated


class GatedGenerator(nn.Module):
    """Maps images with masks ``[N, in_channels, H, W]`` to images ``[N, out_channels, H, W]``.

    The output is in [-1, 1].
    """

    def __init__(self, shape: ImageToImageShape, width: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.first = GatedConvolution(shape.in_channels, width, 5)
        self.halved = nn.Sequential(
            GatedConvolution(width, 2 * width, stride=2), GatedConvolution(2 * width, 2 * width)
        )
        self.quartered = nn.Sequential(
            GatedConvolution(2 * width, 4 * width, stride=2),
            GatedConvolution(4 * width, 4 * width),
        )
        self.middle = nn.ModuleList(
            GatedConvolution(4 * width, 4 * width, dilation=dilation) for dilation in dilations
        )
        self.to_half = GatedConvolution(6 * width, 2 * width)
        self.to_whole = GatedConvolution(3 * width, width)
        self.last = nn.Conv2d(width, shape.out_channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        full = self.first(images)
        half = self.halved(full)
        x = self.quartered(half)
        for gated in self.middle:
            x = x + gated(x)
        x = self.to_half(torch.cat([F.interpolate(x, scale_factor=2.0), half], 1))
        x = self.to_whole(torch.cat([F.interpolate(x, scale_factor=2.0), full], 1))
        return torch.tanh(self.last(x))


class GatedOptions(ImageToImageOptions):
    """A generator of gated convolutions; `width` is the number of channels at full resolution."""

    network: Literal["gated"]
    width: PositiveInt = 32
    # Dilations of the convolutions at a quarter of the resolution.
    dilations: tuple[PositiveInt, ...] = (1, 2, 4, 8, 2, 1)

    def build(self, shape: ImageToImageShape) -> GatedGenerator:
        """Build the network, initialized from the global random state. Raises ValueError."""
        if shape.side % 4 or shape.factor != 1:
            raise ValueError(
                "the network gated needs a side that is a multiple of 4 and a factor of 1; "
                f"got side {shape.side}, factor {shape.factor}"
            )
        return GatedGenerator(shape, self.width, self.dilations)

    def side_multiple(self, shape: ImageToImageShape) -> int:  # noqa: ARG002 - same interface for all networks
        """Return the required divisor of the input sides, in pixels."""
        return 4

    def receptive_field(self, shape: ImageToImageShape) -> int:  # noqa: ARG002
        """Return the receptive field's radius in input pixels."""
        return 2 + 1 + 2 + 2 + 4 + 4 * sum(self.dilations) + 2 * 2 + 2 + 2 + 4
