"""The U-Net of pix2pix (Isola et al. 2017, arXiv:1611.07004, appendix 6.1).

An encoder of strided convolutions down to a point, a decoder of transposed ones, and every layer
of the encoder joined to its mirror in the decoder.
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
from training.recipe.options import Options


class UNet(nn.Module):
    """Pictures ``[N, given, H, W]`` to ``[N, made, H, W]`` in [-1, 1], for sides of `2**levels`."""

    def __init__(
        self,
        shape: ImageToImageShape,
        widths: list[int],
        normalisation: ImageNormalization,
        dropout: float,
    ) -> None:
        super().__init__()
        levels = len(widths)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for i, width in enumerate(widths):
            # Neither the first layer nor the innermost is normalised: of one pixel nothing is left.
            normalised = normalization_layers(normalisation, width) if 0 < i < levels - 1 else []
            before = shape.in_channels if i == 0 else widths[i - 1]
            convolution = nn.Conv2d(before, width, 4, 2, 1, bias=not normalised)
            slope = [] if i == 0 else [nn.LeakyReLU(0.2)]
            self.down.append(nn.Sequential(*slope, convolution, *normalised))
        for i in reversed(range(levels)):
            fan_in = widths[i] * (1 if i == levels - 1 else 2)
            if i == 0:
                last = nn.ConvTranspose2d(fan_in, shape.out_channels, 4, 2, 1)
                self.up.append(nn.Sequential(nn.ReLU(), last, nn.Tanh()))
                continue
            normalised = normalization_layers(normalisation, widths[i - 1])
            convolution_up = nn.ConvTranspose2d(fan_in, widths[i - 1], 4, 2, 1, bias=not normalised)
            drop = [nn.Dropout(dropout)] if dropout and i >= levels - 3 else []
            self.up.append(nn.Sequential(nn.ReLU(), convolution_up, *normalised, *drop))
        self.apply(init_weights)

    def forward(self, images: Tensor) -> Tensor:
        seen = [images]
        for down in self.down:
            seen.append(down(seen[-1]))
        x: Tensor = self.up[0](seen[-1])
        for up, joined in zip(self.up[1:], reversed(seen[1:-1]), strict=True):
            x = up(torch.cat([x, joined], 1))
        return x


class UNetOptions(Options):
    """A U-Net; `width` is its outermost layer's, and grows to `most` inside."""

    network: Literal["unet"]
    width: PositiveInt = 64
    most: PositiveInt = 512
    # How often the side is halved; down to one pixel where nothing is said.
    levels: PositiveInt | None = None
    normalisation: ImageNormalization = "batch"
    # In the three innermost layers of the decoder; the paper's only noise is this.
    dropout: float = Field(default=0.0, ge=0, lt=1)

    def build_image_to_image(self, shape: ImageToImageShape) -> UNet:
        """Make the network with fresh weights from the global random state. Raises ValueError."""
        levels = self._levels(shape)
        if shape.side % 2**levels or levels < 2:
            raise ValueError(
                f"a U-Net that halves {levels} times needs a side of {2**levels}, "
                f"{2 * 2**levels}, …; got {shape.side}"
            )
        if shape.factor != 1:
            raise ValueError("a U-Net makes pictures as large as it is given; use rrdb or srresnet")
        widths = [min(self.width * 2**i, self.most) for i in range(levels)]
        return UNet(shape, widths, self.normalisation, self.dropout)

    def side_multiple(self, shape: ImageToImageShape) -> int:
        """Return what a side must be a multiple of."""
        return 1 << self._levels(shape)

    def min_side(self, shape: ImageToImageShape) -> int:
        """Return the shortest side."""
        return self.side_multiple(shape)

    def receptive_field(self, shape: ImageToImageShape) -> int | None:
        """Return how far an input pixel may be from what it has a part in, in input pixels.

        None with instance normalisation, by which every pixel has a part in all.
        """
        if self.normalisation == "instance":
            return None
        # Each level widens the way down and the way up by a pixel and a half of its own size.
        return 3 * (1 << self._levels(shape))

    def _levels(self, shape: ImageToImageShape) -> int:
        levels: int = self.levels or max(shape.side.bit_length() - 1, 1)
        return levels
