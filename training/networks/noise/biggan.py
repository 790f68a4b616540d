"""BigGAN (Brock, Donahue, Simonyan 2018, arXiv:1809.11096).

The latent is cut into chunks: one makes the 4×4 picture, each other joins the class's embedding,
which all blocks share, and together they scale and shift the batch normalisation of a block
("skip-z"). Residual blocks double and halve, self-attention looks across the whole picture,
spectral normalisation holds both players' weights, which begin orthogonal; the discriminator is
told the class by projection.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from training.networks.layers.conditioning import Conditioning, LabelEmbedding
from training.networks.layers.resampling import upsample_nearest
from training.networks.layers.shapes import ImageShape
from training.networks.noise.biggan_deep import BigGANDeepDiscriminator, BigGANDeepGenerator
from training.networks.noise.biggan_layers import (
    BASE,
    ConditionalBatchNorm2d,
    ProjectionDiscriminator,
    SelfAttention,
    ToImages,
    concat_label,
    init_orthogonal,
    spectral_conv,
    with_spectral_norm,
)
from training.networks.noise.options import NoiseOptions
from training.recipe.options import Options

# Channels from 4×4 up, in units of `width`, by the picture's side: tables 4 to 9 of the paper, the
# same for BigGAN and BigGAN-deep, and for the smaller ones the authors' code.
MULTIPLES = {
    32: (4, 4, 4, 4),
    64: (16, 16, 8, 4, 2),
    128: (16, 16, 8, 4, 2, 1),
    256: (16, 16, 8, 8, 4, 2, 1),
}


class BlockUp(nn.Module):
    """A residual block that doubles, its normalisation told the condition."""

    def __init__(self, fan_in: int, fan_out: int, condition: int) -> None:
        super().__init__()
        self.norm_in = ConditionalBatchNorm2d(fan_in, condition)
        self.norm_out = ConditionalBatchNorm2d(fan_out, condition)
        self.grow = spectral_conv(fan_in, fan_out, 3)
        self.refine = spectral_conv(fan_out, fan_out, 3)
        self.skip = spectral_conv(fan_in, fan_out, 1)

    def forward(self, x: Tensor, condition: Tensor, standing: Tensor | None = None) -> Tensor:
        branch = upsample_nearest(F.relu(self.norm_in(x, condition, standing)))
        branch = F.relu(self.norm_out(self.grow(branch), condition, standing))
        added: Tensor = self.refine(branch) + self.skip(upsample_nearest(x))
        return added


class BlockDown(nn.Module):
    """A residual block that halves, or keeps the size; the first one takes the picture as it is."""

    def __init__(self, fan_in: int, fan_out: int, *, first: bool, halves: bool) -> None:
        super().__init__()
        self.first, self.halves = first, halves
        self.widen = spectral_conv(fan_in, fan_out, 3)
        self.refine = spectral_conv(fan_out, fan_out, 3)
        self.skip = spectral_conv(fan_in, fan_out, 1) if fan_in != fan_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        branch = self.widen(x if self.first else F.relu(x))
        branch = self.refine(F.relu(branch))
        added: Tensor = branch + self.skip(x)
        return F.avg_pool2d(added, 2) if self.halves else added


class BigGANGenerator(nn.Module):
    """Latents ``[N, z_dim]`` and classes ``[N]`` to pictures ``[N, C, H, W]`` in [-1, 1]."""

    def __init__(
        self,
        z_dim: int,
        shape: ImageShape,
        widths: list[int],
        attention: int,
        conditioning: Conditioning,
    ) -> None:
        super().__init__()
        chunks = len(widths)
        if z_dim % chunks:
            raise ValueError(f"BigGAN at {shape.height} pixels cuts z in {chunks}; got {z_dim}")
        self.chunk = z_dim // chunks
        self.label = LabelEmbedding(conditioning)
        condition = self.chunk + conditioning.width
        self.first = with_spectral_norm(nn.Linear(self.chunk, widths[0] * BASE**2))
        self.width = widths[0]
        self.blocks = nn.ModuleList(BlockUp(a, b, condition) for a, b in pairwise(widths))
        self.attention = nn.ModuleList(
            SelfAttention(width) if BASE * 2 ** (i + 1) == attention else nn.Identity()
            for i, width in enumerate(widths[1:])
        )
        self.last = ToImages(widths[-1], shape.channels)
        self.apply(init_orthogonal)

    def forward(
        self, z: Tensor, class_index: Tensor | None = None, standing: Tensor | None = None
    ) -> Tensor:
        """Make pictures; `standing` [N, K] is for `StandingBatchNorm2d`, where there are any."""
        first, *rest = torch.split(z, self.chunk, dim=1)
        label = self.label.lookup(class_index)
        x = self.first(first).reshape(-1, self.width, BASE, BASE)
        for chunk, block, attention in zip(rest, self.blocks, self.attention, strict=True):
            x = attention(block(x, concat_label(chunk, label), standing))
        images: Tensor = self.last(x, standing)
        return images


class BigGANDiscriminator(ProjectionDiscriminator):
    """Pictures ``[N, C, H, W]`` and classes ``[N]`` to logits ``[N]``: positive is real."""

    def __init__(
        self, shape: ImageShape, widths: list[int], attention: int, conditioning: Conditioning
    ) -> None:
        blocks: list[nn.Module] = []
        size = shape.height
        for i, (fan_in, fan_out) in enumerate(pairwise([shape.channels, *widths])):
            halves = size > BASE
            blocks.append(BlockDown(fan_in, fan_out, first=i == 0, halves=halves))
            size = size // 2 if halves else size
            if size == attention:
                blocks.append(SelfAttention(fan_out))
        super().__init__(blocks, widths[-1], conditioning)


class _BigGANOptions(Options):
    network: Literal["biggan"]
    # BigGAN-deep: two bottleneck blocks at each resolution, and a latent that is not cut.
    deep: bool = False
    # The paper's ch: all channels are multiples of it.
    width: PositiveInt = 64
    # The side at which the picture attends to itself, in pixels; a side it does not have is none.
    attention: PositiveInt = 64

    def widths(self, shape: ImageShape) -> list[int]:
        """Return the channels from 4×4 up. Raises ValueError for a side without a definition."""
        if shape.height not in MULTIPLES:
            sides = ", ".join(map(str, MULTIPLES))
            raise ValueError(f"BigGAN needs a side of {sides}; got {shape.height}")
        return [self.width * multiple for multiple in MULTIPLES[shape.height]]


class BigGANGeneratorOptions(_BigGANOptions, NoiseOptions):
    """A residual generator with class-conditional batch normalisation."""

    z_dim: PositiveInt = 120
    # Without latents further out than 2 (section 3.1 of the paper).
    distribution: Literal["normal", "truncated-normal"] = "truncated-normal"
    # How many values stand for the class, shared by all blocks.
    class_width: PositiveInt = 128

    def build(self, shape: ImageShape, classes: int = 0) -> BigGANGenerator | BigGANDeepGenerator:
        """Make the network with fresh weights from the global random state."""
        conditioning = Conditioning.of(classes, self.class_width)
        network = BigGANDeepGenerator if self.deep else BigGANGenerator
        return network(self.z_dim, shape, self.widths(shape), self.attention, conditioning)


class BigGANDiscriminatorOptions(_BigGANOptions):
    """A residual discriminator, told the class by projection."""

    def build(
        self, shape: ImageShape, classes: int = 0
    ) -> BigGANDiscriminator | BigGANDeepDiscriminator:
        """Make the network with fresh weights from the global random state."""
        widths = self.widths(shape)[::-1]
        conditioning = Conditioning.of(classes, widths[-1])
        network = BigGANDeepDiscriminator if self.deep else BigGANDiscriminator
        return network(shape, widths, self.attention, conditioning)
