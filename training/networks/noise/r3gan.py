"""R3GAN, the modern baseline (Huang et al. 2024, arXiv:2501.05441).

Residual networks and nothing else: no normalisation, no style, no noise, no minibatch statistics.
Blocks are inverted bottlenecks with a grouped 3×3 convolution in the middle; resolutions change by
bilinear resampling; weights start by Fixup (arXiv:1901.09321), which is what lets normalisation go.
Played with the relativistic loss, R1 and R2.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from training.networks.layers.conditioning import Conditioning, LabelConcat, LabelProjection
from training.networks.layers.shapes import ImageShape
from training.networks.noise.options import NoiseOptions
from training.recipe.options import Options

# Side of the smallest pictures inside, in pixels.
BASE = 4
SLOPE = 0.2
# Layers with weights in one residual branch: m of Fixup.
BRANCH_DEPTH = 3


def resolutions(size: int) -> list[int]:
    """Return the sides from 4 to `size`, each twice the one before.

    Raises ValueError for a side that is not 4 times a power of two, 8 at least.
    """
    sides = [BASE]
    while sides[-1] < size:
        sides.append(sides[-1] * 2)
    if sides[-1] != size or len(sides) == 1:
        raise ValueError(f"R3GAN needs a side of 8, 16, 32, …; got {size}")
    return sides


class ResidualBlock(nn.Module):
    """``[N, C, H, W]`` to the same: 1×1 to twice the channels, grouped 3×3, 1×1 back, added.

    `blocks` is how many there are in the network: the more, the smaller each begins.
    """

    def __init__(self, channels: int, group_width: int, blocks: int) -> None:
        super().__init__()
        inner = channels * 2
        if inner % group_width:
            raise ValueError(f"group_width {group_width} does not divide {inner} channels")
        self.expand = nn.Conv2d(channels, inner, 1)
        self.mix = nn.Conv2d(inner, inner, 3, padding=1, groups=inner // group_width)
        self.reduce = nn.Conv2d(inner, channels, 1, bias=False)
        scale = blocks ** (-1 / (2 * BRANCH_DEPTH - 2))
        for layer in (self.expand, self.mix):
            nn.init.kaiming_normal_(layer.weight, SLOPE)
            with torch.no_grad():
                layer.weight.mul_(scale)
            assert layer.bias is not None  # noqa: S101 - for the type checker
            nn.init.zeros_(layer.bias)
        # A branch begins as nothing, so that the whole network begins as its skips.
        nn.init.zeros_(self.reduce.weight)

    def forward(self, x: Tensor) -> Tensor:
        branch = F.leaky_relu(self.expand(x), SLOPE)
        branch = F.leaky_relu(self.mix(branch), SLOPE)
        added: Tensor = self.reduce(branch)
        return x + added


class R3GANGenerator(nn.Module):
    """Latents ``[N, z_dim]`` and classes ``[N]`` to pictures ``[N, C, H, W]`` near [-1, 1]."""

    def __init__(
        self,
        z_dim: int,
        shape: ImageShape,
        widths: list[int],
        blocks: int,
        group_width: int,
        conditioning: Conditioning,
    ) -> None:
        super().__init__()
        self.join = LabelConcat(conditioning)
        # A learned 4×4 picture for each channel, as strong as the latent says.
        self.basis = nn.Parameter(torch.randn(widths[0], BASE, BASE))
        self.strength = nn.Linear(z_dim + conditioning.width, widths[0], bias=False)
        nn.init.kaiming_normal_(self.strength.weight, nonlinearity="linear")
        count = blocks * len(widths)
        self.stages = nn.ModuleList(_stage(width, blocks, group_width, count) for width in widths)
        self.widen = nn.ModuleList(_convert(a, b) for a, b in pairwise(widths))
        self.to_image = nn.Conv2d(widths[-1], shape.channels, 1)
        nn.init.kaiming_normal_(self.to_image.weight, nonlinearity="linear")

    def forward(self, z: Tensor, class_index: Tensor | None = None) -> Tensor:
        x = self.strength(self.join(z, class_index))[:, :, None, None] * self.basis
        x = self.stages[0](x)
        for widen, stage in zip(self.widen, self.stages[1:], strict=True):
            x = F.interpolate(widen(x), scale_factor=2, mode="bilinear")
            x = stage(x)
        images: Tensor = self.to_image(x)
        return images


class R3GANDiscriminator(nn.Module):
    """Pictures ``[N, C, H, W]`` and class indices ``[N]`` to logits ``[N]``: positive is real."""

    def __init__(
        self,
        shape: ImageShape,
        widths: list[int],
        blocks: int,
        group_width: int,
        classes: int,
    ) -> None:
        super().__init__()
        self.from_image = _convert(shape.channels, widths[0])
        count = blocks * len(widths)
        self.stages = nn.ModuleList(_stage(width, blocks, group_width, count) for width in widths)
        self.widen = nn.ModuleList(_convert(a, b) for a, b in pairwise(widths))
        self.basis = nn.Conv2d(widths[-1], widths[-1], BASE, groups=widths[-1], bias=False)
        nn.init.kaiming_normal_(self.basis.weight, nonlinearity="linear")
        self.judge = nn.Linear(widths[-1], 1, bias=False)
        nn.init.kaiming_normal_(self.judge.weight, nonlinearity="linear")
        self.project = LabelProjection(Conditioning.of(classes, widths[-1]))

    def forward(self, images: Tensor, class_index: Tensor | None = None) -> Tensor:
        x = self.stages[0](self.from_image(images))
        for widen, stage in zip(self.widen, self.stages[1:], strict=True):
            # Of two by two pixels, bilinear resampling takes the mean.
            x = stage(widen(F.avg_pool2d(x, 2)))
        features = self.basis(x).flatten(1)
        logits: Tensor = self.judge(features).squeeze(1) + self.project(features, class_index)
        return logits


def _stage(width: int, blocks: int, group_width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(width, group_width, count) for _ in range(blocks)))


def _convert(fan_in: int, fan_out: int) -> nn.Module:
    """Change the channels, where they change."""
    if fan_in == fan_out:
        return nn.Identity()
    layer = nn.Conv2d(fan_in, fan_out, 1, bias=False)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
    return layer


class _R3GANOptions(Options):
    network: Literal["r3gan"]
    # Channels at the full resolution; twice as many at half of it, up to `most`.
    width: PositiveInt = 64
    most: PositiveInt = 256
    # Residual blocks at each resolution.
    blocks: PositiveInt = 2
    # Channels in one group of the 3×3 convolutions.
    group_width: PositiveInt = 16

    def widths(self, shape: ImageShape) -> list[int]:
        """Return the channels at each resolution, from 4×4 up."""
        sides = resolutions(shape.height)
        return [min(self.width * shape.height // side, self.most) for side in sides]


class R3GANGeneratorOptions(_R3GANOptions, NoiseOptions):
    """A residual generator."""

    z_dim: PositiveInt = 64
    # How many values stand for the class, where the recipe is conditional.
    class_width: PositiveInt = 32

    def build(self, shape: ImageShape, classes: int = 0) -> R3GANGenerator:
        """Make the network with fresh weights from the global random state."""
        conditioning = Conditioning.of(classes, self.class_width)
        return R3GANGenerator(
            self.z_dim, shape, self.widths(shape), self.blocks, self.group_width, conditioning
        )


class R3GANDiscriminatorOptions(_R3GANOptions):
    """A residual discriminator, told the class by projection."""

    def build(self, shape: ImageShape, classes: int = 0) -> R3GANDiscriminator:
        """Make the network with fresh weights from the global random state."""
        widths = self.widths(shape)[::-1]
        return R3GANDiscriminator(shape, widths, self.blocks, self.group_width, classes)
