"""The residual generator of CycleGAN (Zhu et al. 2017, arXiv:1703.10593, appendix 7.2).

Based on Johnson et al. 2016, arXiv:1603.08155: two strided convolutions, residual blocks at a
quarter of the resolution, two upsampling convolutions. All layers have reflection padding and
instance normalization.
"""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt
from torch import Tensor, nn

from training.networks.layers.normalization import (
    ImageNormalization,
    init_weights,
    normalization_layers,
)
from training.networks.layers.shapes import ImageToImageShape
from training.networks.options import ImageToImageOptions

Upsampling = Literal["transposed", "nearest"]


class ResNetBlock(nn.Module):
    """Two 3×3 convolutions with a skip connection; keeps the shape ``[N, C, H, W]``."""

    def __init__(self, width: int, normalization: ImageNormalization) -> None:
        super().__init__()
        bias = normalization == "none"
        self.branch = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(width, width, 3, bias=bias),
            *normalization_layers(normalization, width),
            nn.ReLU(inplace=True),
            nn.ReflectionPad2d(1),
            nn.Conv2d(width, width, 3, bias=bias),
            *normalization_layers(normalization, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.branch(x)
        return x + residual


class ResNetGenerator(nn.Module):
    """Maps images ``[N, in_channels, H, W]`` to ``[N, out_channels, H, W]`` in [-1, 1].

    Sides must be multiples of 4.
    """

    def __init__(
        self,
        shape: ImageToImageShape,
        width: int,
        blocks: int,
        normalization: ImageNormalization,
        upsampling: Upsampling,
    ) -> None:
        super().__init__()
        bias = normalization == "none"
        layers: list[nn.Module] = [
            nn.ReflectionPad2d(3),
            nn.Conv2d(shape.in_channels, width, 7, bias=bias),
            *normalization_layers(normalization, width),
            nn.ReLU(inplace=True),
        ]
        for multiple in (1, 2):
            layers += [
                nn.Conv2d(width * multiple, width * multiple * 2, 3, 2, 1, bias=bias),
                *normalization_layers(normalization, width * multiple * 2),
                nn.ReLU(inplace=True),
            ]
        layers += [ResNetBlock(width * 4, normalization) for _ in range(blocks)]
        for multiple in (4, 2):
            layers += [
                *_upsampling_layers(width * multiple, width * multiple // 2, upsampling, bias=bias),
                *normalization_layers(normalization, width * multiple // 2),
                nn.ReLU(inplace=True),
            ]
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(width, shape.out_channels, 7), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        self.apply(init_weights)

    def forward(self, images: Tensor) -> Tensor:
        outputs: Tensor = self.layers(images)
        return outputs


def _upsampling_layers(
    fan_in: int, fan_out: int, upsampling: Upsampling, *, bias: bool
) -> list[nn.Module]:
    if upsampling == "transposed":
        return [nn.ConvTranspose2d(fan_in, fan_out, 3, 2, 1, output_padding=1, bias=bias)]
    return [nn.Upsample(scale_factor=2), nn.Conv2d(fan_in, fan_out, 3, padding=1, bias=bias)]


class ResNetOptions(ImageToImageOptions):
    """A residual generator. The paper uses 6 blocks at 128×128 pixels, and 9 at 256×256 or more."""

    network: Literal["resnet"]
    width: PositiveInt = 64
    blocks: PositiveInt = 6
    normalisation: ImageNormalization = "instance"
    # The paper uses transposed convolutions; nearest-neighbor upsampling avoids checkerboard
    # artifacts (Odena et al. 2016, doi:10.23915/distill.00003).
    upsampling: Upsampling = "transposed"

    def build(self, shape: ImageToImageShape) -> ResNetGenerator:
        """Build the network, initialized from the global random state. Raises ValueError."""
        if shape.side % 4 or shape.factor != 1:
            raise ValueError(
                "a residual generator needs a side that is a multiple of 4 and a factor of 1; "
                f"got side {shape.side}, factor {shape.factor}"
            )
        return ResNetGenerator(shape, self.width, self.blocks, self.normalisation, self.upsampling)

    def side_multiple(self, shape: ImageToImageShape) -> int:  # noqa: ARG002 - same interface for all networks
        """Return the required divisor of the input sides, in pixels."""
        return 4

    def min_side(self, shape: ImageToImageShape) -> int:  # noqa: ARG002
        """Return the minimum side. Reflection padding needs two pixels at a quarter of it."""
        return 8

    def receptive_field(self, shape: ImageToImageShape) -> int | None:  # noqa: ARG002
        """Return the radius of the receptive field in input pixels.

        None with instance normalization, where every output pixel depends on the whole image.
        """
        if self.normalisation == "instance":
            return None
        return 3 + 1 + 2 + 8 * self.blocks + 4 + 2 + 3
