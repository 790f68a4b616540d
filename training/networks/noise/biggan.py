"""BigGAN (Brock, Donahue, Simonyan 2018, arXiv:1809.11096).

The latent is split into chunks. The first chunk produces the 4×4 features. Each other chunk is
concatenated with the shared class embedding and conditions the batch normalization of one block
("skip-z"). Residual blocks up- and downsample. One resolution has self-attention. The weights of
both networks are spectrally normalized and initialized orthogonally. The discriminator is
conditioned by projection.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from training.networks.layers.batch_norm import ConditionalBatchNorm2d
from training.networks.layers.conditioning import Conditioning, LabelEmbedding, concat_label
from training.networks.layers.resampling import upsample_nearest
from training.networks.layers.shapes import ImageShape
from training.networks.layers.spectral import spectral_conv, with_spectral_norm
from training.networks.noise.biggan_deep import BigGANDeepDiscriminator, BigGANDeepGenerator
from training.networks.noise.biggan_layers import (
    BASE,
    ProjectionDiscriminator,
    SelfAttention,
    ToImages,
    init_orthogonal,
)
from training.networks.options import ImageDiscriminatorOptions, NoiseGeneratorOptions
from training.recipe.options import Options

# Channels per resolution, starting at 4×4, in units of `width`, by image side. The values are from
# tables 4 to 9 of the paper (the same for BigGAN and BigGAN-deep). For 32 and 64 pixels, they are
# from the authors' code.
MULTIPLES = {
    32: (4, 4, 4, 4),
    64: (16, 16, 8, 4, 2),
    128: (16, 16, 8, 4, 2, 1),
    256: (16, 16, 8, 8, 4, 2, 1),
}


class BlockUp(nn.Module):
    """A residual block that upsamples by 2, with conditional batch normalization."""

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
        output: Tensor = self.refine(branch) + self.skip(upsample_nearest(x))
        return output


class BlockDown(nn.Module):
    """A residual block that downsamples by 2 if `halves`; `first` skips the initial ReLU."""

    def __init__(self, fan_in: int, fan_out: int, *, first: bool, halves: bool) -> None:
        super().__init__()
        self.first, self.halves = first, halves
        self.widen = spectral_conv(fan_in, fan_out, 3)
        self.refine = spectral_conv(fan_out, fan_out, 3)
        self.skip = spectral_conv(fan_in, fan_out, 1) if fan_in != fan_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        branch = self.widen(x if self.first else F.relu(x))
        branch = self.refine(F.relu(branch))
        output: Tensor = branch + self.skip(x)
        return F.avg_pool2d(output, 2) if self.halves else output


class BigGANGenerator(nn.Module):
    """Maps latents ``[N, z_dim]`` and classes ``[N]`` to images ``[N, C, H, W]`` in [-1, 1]."""

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
            raise ValueError(
                f"BigGAN at {shape.height} pixels splits z into {chunks} chunks; "
                f"z_dim {z_dim} is not a multiple of {chunks}"
            )
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
        """Generate images; `standing` ``[N, K]`` are the weights for `StandingBatchNorm2d`."""
        first, *rest = torch.split(z, self.chunk, dim=1)
        label = self.label.lookup(class_index)
        x = self.first(first).reshape(-1, self.width, BASE, BASE)
        for chunk, block, attention in zip(rest, self.blocks, self.attention, strict=True):
            x = attention(block(x, concat_label(chunk, label), standing))
        images: Tensor = self.last(x, standing)
        return images


class BigGANDiscriminator(ProjectionDiscriminator):
    """Maps images ``[N, C, H, W]`` and classes ``[N]`` to logits ``[N]``: positive means real."""

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
    # BigGAN-deep: two bottleneck blocks per resolution, and the whole latent in every block.
    deep: bool = False
    # `ch` in the paper: all channel counts are multiples of it.
    width: PositiveInt = 64
    # Side, in pixels, of the layer with self-attention. There is none if no layer has this side.
    attention: PositiveInt = 64

    def widths(self, shape: ImageShape) -> list[int]:
        """Return the channels per resolution, starting at 4×4.

        Raises ValueError for an unsupported side.
        """
        if shape.height not in MULTIPLES:
            sides = ", ".join(map(str, MULTIPLES))
            raise ValueError(f"BigGAN needs a side of {sides}; got {shape.height}")
        return [self.width * multiple for multiple in MULTIPLES[shape.height]]


class BigGANGeneratorOptions(_BigGANOptions, NoiseGeneratorOptions):
    """A residual generator with class-conditional batch normalization."""

    z_dim: PositiveInt = 120
    # Latents are resampled where |z| > 2 (section 3.1).
    distribution: Literal["normal", "truncated-normal"] = "truncated-normal"
    # Width of the class embedding, which all blocks share.
    class_width: PositiveInt = 128

    def build(self, shape: ImageShape, classes: int = 0) -> BigGANGenerator | BigGANDeepGenerator:
        """Build the network, initialized from the global random state."""
        conditioning = Conditioning.of(classes, self.class_width)
        network = BigGANDeepGenerator if self.deep else BigGANGenerator
        return network(self.z_dim, shape, self.widths(shape), self.attention, conditioning)


class BigGANDiscriminatorOptions(_BigGANOptions, ImageDiscriminatorOptions):
    """A residual discriminator, conditioned by projection."""

    def build(
        self, shape: ImageShape, classes: int = 0
    ) -> BigGANDiscriminator | BigGANDeepDiscriminator:
        """Build the network, initialized from the global random state."""
        widths = self.widths(shape)[::-1]
        conditioning = Conditioning.of(classes, widths[-1])
        network = BigGANDeepDiscriminator if self.deep else BigGANDiscriminator
        return network(shape, widths, self.attention, conditioning)
