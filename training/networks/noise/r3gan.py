"""R3GAN (Huang et al. 2024, arXiv:2501.05441).

Plain residual networks: no normalization, no styles, no noise inputs, no minibatch statistics.
Blocks are inverted bottlenecks around a grouped 3×3 convolution; resolutions change by bilinear
resampling. Fixup initialization (arXiv:1901.09321) replaces normalization. Trained with the
relativistic loss, R1 and R2.
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
from training.networks.options import ImageDiscriminatorOptions, NoiseGeneratorOptions
from training.recipe.options import Options

# Side of the smallest feature maps, in pixels.
BASE = 4
SLOPE = 0.2
# The number of layers in a residual branch, m in the Fixup paper.
BRANCH_DEPTH = 3


def resolutions(size: int) -> list[int]:
    """Return the sides 4, 8, … `size`.

    Raises ValueError unless `size` is a power of two and at least 8.
    """
    sides = [BASE]
    while sides[-1] < size:
        sides.append(sides[-1] * 2)
    if sides[-1] != size or len(sides) == 1:
        raise ValueError(f"R3GAN needs a side of 8, 16, 32, …; got {size}")
    return sides


class R3GANBlock(nn.Module):
    """1×1 to twice the channels, grouped 3×3, 1×1 back, plus a skip; keeps ``[N, C, H, W]``.

    `blocks` is the number of blocks in the network, from which Fixup scales the initial weights.
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
        # Branches start at zero, so that the initial network consists of its skip connections only.
        nn.init.zeros_(self.reduce.weight)

    def forward(self, x: Tensor) -> Tensor:
        branch = F.leaky_relu(self.expand(x), SLOPE)
        branch = F.leaky_relu(self.mix(branch), SLOPE)
        residual: Tensor = self.reduce(branch)
        return x + residual


class R3GANGenerator(nn.Module):
    """Maps latents ``[N, z_dim]`` and classes ``[N]`` to images ``[N, C, H, W]`` near [-1, 1]."""

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
        # A learned 4×4 feature map per channel, scaled by a linear function of the latent.
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
    """Maps images ``[N, C, H, W]`` and classes ``[N]`` to logits ``[N]``: positive means real."""

    def __init__(
        self,
        shape: ImageShape,
        widths: list[int],
        blocks: int,
        group_width: int,
        conditioning: Conditioning,
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
        self.project = LabelProjection(conditioning)

    def forward(self, images: Tensor, class_index: Tensor | None = None) -> Tensor:
        x = self.stages[0](self.from_image(images))
        for widen, stage in zip(self.widen, self.stages[1:], strict=True):
            # Bilinear downsampling by 2 is the mean of 2×2 pixels.
            x = stage(widen(F.avg_pool2d(x, 2)))
        features = self.basis(x).flatten(1)
        logits: Tensor = self.judge(features).squeeze(1) + self.project(features, class_index)
        return logits


def _stage(width: int, blocks: int, group_width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(R3GANBlock(width, group_width, count) for _ in range(blocks)))


def _convert(fan_in: int, fan_out: int) -> nn.Module:
    """Build a 1×1 convolution, or the identity if the channel counts are equal."""
    if fan_in == fan_out:
        return nn.Identity()
    layer = nn.Conv2d(fan_in, fan_out, 1, bias=False)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
    return layer


class _R3GANOptions(Options):
    network: Literal["r3gan"]
    # Channels at full resolution. They double with each halving of the side, up to `most`.
    width: PositiveInt = 64
    most: PositiveInt = 256
    # Residual blocks per resolution.
    blocks: PositiveInt = 2
    # Channels per group of the 3×3 convolutions.
    group_width: PositiveInt = 16

    def widths(self, shape: ImageShape) -> list[int]:
        """Return the channels per resolution, starting at 4×4."""
        sides = resolutions(shape.height)
        return [min(self.width * shape.height // side, self.most) for side in sides]


class R3GANGeneratorOptions(_R3GANOptions, NoiseGeneratorOptions):
    """A residual generator."""

    z_dim: PositiveInt = 64
    # Width of the embedding of the class or the text of a conditional generator.
    class_width: PositiveInt = 32

    def build(self, shape: ImageShape, classes: int = 0) -> R3GANGenerator:
        """Build the network, initialized from the global random state."""
        return self._build(shape, Conditioning.of(classes, self.class_width))

    def build_for_text(self, shape: ImageShape, dimension: int) -> R3GANGenerator:
        """Build the network for sentence embeddings ``[N, dimension]``."""
        return self._build(shape, Conditioning.of_text(dimension, self.class_width))

    def _build(self, shape: ImageShape, conditioning: Conditioning) -> R3GANGenerator:
        return R3GANGenerator(
            self.z_dim, shape, self.widths(shape), self.blocks, self.group_width, conditioning
        )


class R3GANDiscriminatorOptions(_R3GANOptions, ImageDiscriminatorOptions):
    """A residual discriminator, conditioned by projection."""

    def build(self, shape: ImageShape, classes: int = 0) -> R3GANDiscriminator:
        """Build the network, initialized from the global random state."""
        return self._build(shape, Conditioning.of(classes, self.widths(shape)[0]))

    def build_for_text(self, shape: ImageShape, dimension: int) -> R3GANDiscriminator:
        """Build the network for sentence embeddings ``[N, dimension]``."""
        return self._build(shape, Conditioning.of_text(dimension, self.widths(shape)[0]))

    def _build(self, shape: ImageShape, conditioning: Conditioning) -> R3GANDiscriminator:
        widths = self.widths(shape)[::-1]
        return R3GANDiscriminator(shape, widths, self.blocks, self.group_width, conditioning)
