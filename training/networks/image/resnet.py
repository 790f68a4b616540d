"""The residual generator of CycleGAN (Zhu et al. 2017, arXiv:1703.10593, appendix 7.2).

After Johnson et al. 2016, arXiv:1603.08155: two halvings, residual blocks at a quarter of the side,
two doublings; reflection padding and instance normalisation throughout.
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
from training.recipe.options import Options

Upsampling = Literal["transposed", "nearest"]


class ResidualBlock(nn.Module):
    """``[N, C, H, W]`` to the same: two 3×3 convolutions, added."""

    def __init__(self, width: int, normalisation: ImageNormalization) -> None:
        super().__init__()
        bias = normalisation == "none"
        self.branch = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(width, width, 3, bias=bias),
            *normalization_layers(normalisation, width),
            nn.ReLU(inplace=True),
            nn.ReflectionPad2d(1),
            nn.Conv2d(width, width, 3, bias=bias),
            *normalization_layers(normalisation, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.branch(x)
        return x + added


class ResNetGenerator(nn.Module):
    """Pictures ``[N, given, H, W]`` to ``[N, made, H, W]`` in [-1, 1], for sides in steps of 4."""

    def __init__(
        self,
        shape: ImageToImageShape,
        width: int,
        blocks: int,
        normalisation: ImageNormalization,
        upsampling: Upsampling,
    ) -> None:
        super().__init__()
        bias = normalisation == "none"
        layers: list[nn.Module] = [
            nn.ReflectionPad2d(3),
            nn.Conv2d(shape.in_channels, width, 7, bias=bias),
            *normalization_layers(normalisation, width),
            nn.ReLU(inplace=True),
        ]
        for multiple in (1, 2):
            layers += [
                nn.Conv2d(width * multiple, width * multiple * 2, 3, 2, 1, bias=bias),
                *normalization_layers(normalisation, width * multiple * 2),
                nn.ReLU(inplace=True),
            ]
        layers += [ResidualBlock(width * 4, normalisation) for _ in range(blocks)]
        for multiple in (4, 2):
            layers += [
                *_doubled(width * multiple, width * multiple // 2, upsampling, bias=bias),
                *normalization_layers(normalisation, width * multiple // 2),
                nn.ReLU(inplace=True),
            ]
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(width, shape.out_channels, 7), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        self.apply(init_weights)

    def forward(self, images: Tensor) -> Tensor:
        made: Tensor = self.layers(images)
        return made


def _doubled(fan_in: int, fan_out: int, upsampling: Upsampling, *, bias: bool) -> list[nn.Module]:
    if upsampling == "transposed":
        return [nn.ConvTranspose2d(fan_in, fan_out, 3, 2, 1, output_padding=1, bias=bias)]
    return [nn.Upsample(scale_factor=2), nn.Conv2d(fan_in, fan_out, 3, padding=1, bias=bias)]


class ResNetOptions(Options):
    """A residual generator: 6 blocks for pictures of 128 pixels, 9 from 256 on."""

    network: Literal["resnet"]
    width: PositiveInt = 64
    blocks: PositiveInt = 6
    normalisation: ImageNormalization = "instance"
    # Transposed convolutions are the paper's; doubled pixels leave no checkerboard
    # (Odena et al. 2016, doi:10.23915/distill.00003).
    upsampling: Upsampling = "transposed"

    def build_image_to_image(self, shape: ImageToImageShape) -> ResNetGenerator:
        """Make the network with fresh weights from the global random state. Raises ValueError."""
        if shape.side % 4 or shape.factor != 1:
            raise ValueError(
                f"a residual generator needs a side of 4, 8, 12, … and keeps it; got {shape.side}"
            )
        return ResNetGenerator(shape, self.width, self.blocks, self.normalisation, self.upsampling)

    def side_multiple(self, shape: ImageToImageShape) -> int:  # noqa: ARG002 - as all networks have it
        """Return what a side must be a multiple of."""
        return 4

    def min_side(self, shape: ImageToImageShape) -> int:  # noqa: ARG002
        """Return the shortest side: at a quarter of it there have to be two pixels to reflect."""
        return 8

    def receptive_field(self, shape: ImageToImageShape) -> int | None:  # noqa: ARG002
        """Return how far an input pixel may be from what it has a part in, in input pixels.

        None with instance normalisation, by which every pixel has a part in all.
        """
        if self.normalisation == "instance":
            return None
        return 3 + 1 + 2 + 8 * self.blocks + 4 + 2 + 3
