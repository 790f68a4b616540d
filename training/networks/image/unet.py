"""The U-Net of pix2pix (Isola et al. 2017, arXiv:1611.07004, appendix 6.1).

An encoder of strided convolutions down to one pixel, a decoder of transposed convolutions, and a
skip connection from each encoder layer to the decoder layer at the same resolution.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from training.networks.layers.normalization import (
    ImageNormalization,
    init_weights,
    normalization_layers,
)
from training.networks.layers.shapes import ImageToImageShape
from training.networks.options import ImageToImageOptions


class UNet(nn.Module):
    """Maps images ``[N, in_channels, H, W]`` to ``[N, out_channels, H, W]`` in [-1, 1].

    Sides must be multiples of ``2**levels``, where ``levels = len(widths)``.
    """

    def __init__(
        self,
        shape: ImageToImageShape,
        widths: list[int],
        normalization: ImageNormalization,
        dropout: float,
    ) -> None:
        super().__init__()
        levels = len(widths)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for i, width in enumerate(widths):
            # No normalization in the first and innermost layers: normalizing one pixel gives 0.
            normalized = normalization_layers(normalization, width) if 0 < i < levels - 1 else []
            fan_in = shape.in_channels if i == 0 else widths[i - 1]
            convolution = nn.Conv2d(fan_in, width, 4, 2, 1, bias=not normalized)
            activation = [] if i == 0 else [nn.LeakyReLU(0.2)]
            self.down.append(nn.Sequential(*activation, convolution, *normalized))
        for i in reversed(range(levels)):
            fan_in = widths[i] * (1 if i == levels - 1 else 2)
            if i == 0:
                last = nn.ConvTranspose2d(fan_in, shape.out_channels, 4, 2, 1)
                self.up.append(nn.Sequential(nn.ReLU(), last, nn.Tanh()))
                continue
            normalized = normalization_layers(normalization, widths[i - 1])
            transposed = nn.ConvTranspose2d(fan_in, widths[i - 1], 4, 2, 1, bias=not normalized)
            drop = [nn.Dropout(dropout)] if dropout and i >= levels - 3 else []
            self.up.append(nn.Sequential(nn.ReLU(), transposed, *normalized, *drop))
        self.apply(init_weights)

    def forward(self, images: Tensor) -> Tensor:
        features = [images]
        for down in self.down:
            features.append(down(features[-1]))
        x: Tensor = self.up[0](features[-1])
        for up, skip in zip(self.up[1:], reversed(features[1:-1]), strict=True):
            x = up(torch.cat([x, skip], 1))
        return x


class UNetOptions(ImageToImageOptions):
    """A U-Net with `width` channels in the outermost layer and at most `most` channels."""

    network: Literal["unet"]
    width: PositiveInt = 64
    most: PositiveInt = 512
    # The number of strided convolutions; default: down to one pixel.
    levels: PositiveInt | None = None
    normalisation: ImageNormalization = "batch"
    # Dropout in the three innermost decoder layers, the paper's only source of noise.
    dropout: float = Field(default=0.0, ge=0, lt=1)

    def build(self, shape: ImageToImageShape) -> UNet:
        """Build the network, initialized from the global random state. Raises ValueError."""
        levels = self._levels(shape)
        if shape.side % 2**levels or levels < 2:
            raise ValueError(
                f"a U-Net with {levels} levels needs a side of {2**levels}, "
                f"{2 * 2**levels}, …; got {shape.side}"
            )
        if shape.factor != 1:
            raise ValueError("a U-Net does not change the image size; use rrdb or srresnet")
        widths = [min(self.width * 2**i, self.most) for i in range(levels)]
        return UNet(shape, widths, self.normalisation, self.dropout)

    def side_multiple(self, shape: ImageToImageShape) -> int:
        """Return the required divisor of the input sides, in pixels."""
        return 1 << self._levels(shape)

    def receptive_field(self, shape: ImageToImageShape) -> int | None:
        """Return the radius of the receptive field in input pixels.

        None with instance normalization, where every output pixel depends on the whole image.
        """
        if self.normalisation == "instance":
            return None
        # Level i adds 1.5 pixels of size 2^i in the encoder, and the same in the decoder.
        return 3 * (1 << self._levels(shape))

    def _levels(self, shape: ImageToImageShape) -> int:
        levels: int = self.levels or max(shape.side.bit_length() - 1, 1)
        return levels
