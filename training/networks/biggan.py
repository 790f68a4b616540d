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
from torch.nn.utils.parametrizations import spectral_norm

from training.networks.conditioning import Conditioning, LabelEmbedding, ProjectedLabel
from training.networks.noise import NoiseOptions
from training.networks.shapes import ImageShape
from training.options import Options

BASE = 4
# Channels from 4×4 up, in units of `width`, by the picture's side: tables 4 to 6 of the paper, and
# for the smaller ones the authors' code.
MULTIPLES = {
    32: (4, 4, 4, 4),
    64: (16, 16, 8, 4, 2),
    128: (16, 16, 8, 4, 2, 1),
    256: (16, 16, 8, 8, 4, 2, 1),
}


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that in evaluation is a scale and a shift, and is exported so."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            normalised: Tensor = super().forward(x)
            return normalised
        assert self.running_mean is not None  # noqa: S101 - for the type checker
        assert self.running_var is not None  # noqa: S101 - for the type checker
        scale = torch.rsqrt(self.running_var + self.eps)
        shift = -self.running_mean * scale
        if self.affine:
            scale, shift = scale * self.weight, shift * self.weight + self.bias
        return x * scale[:, None, None] + shift[:, None, None]


class ConditionalBatchNorm2d(nn.Module):
    """Batch normalisation of ``[N, C, H, W]``, its gain and bias from a condition ``[N, D]``."""

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.norm = BatchNorm2d(channels, affine=False)
        self.gain = spectral_norm(nn.Linear(condition, channels, bias=False))
        self.bias = spectral_norm(nn.Linear(condition, channels, bias=False))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        gain: Tensor = 1 + self.gain(condition)
        bias: Tensor = self.bias(condition)
        normalised: Tensor = self.norm(x)
        return normalised * gain[:, :, None, None] + bias[:, :, None, None]


class SelfAttention(nn.Module):
    """Every place looks at every other (Zhang et al. 2018, arXiv:1805.08318). Begins as nothing."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(channels // 8, 1)
        self.query = _convolution(channels, inner, 1, bias=False)
        self.key = _convolution(channels, inner, 1, bias=False)
        self.value = _convolution(channels, max(channels // 2, 1), 1, bias=False)
        self.out = _convolution(max(channels // 2, 1), channels, 1, bias=False)
        self.strength = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        query = self.query(x).flatten(2)
        key = F.max_pool2d(self.key(x), 2).flatten(2)
        value = F.max_pool2d(self.value(x), 2).flatten(2)
        looks = torch.softmax(query.transpose(1, 2) @ key, dim=-1)
        seen = (value @ looks.transpose(1, 2)).reshape(x.shape[0], -1, height, width)
        attended: Tensor = x + self.strength * self.out(seen)
        return attended


class BlockUp(nn.Module):
    """A residual block that doubles, its normalisation told the condition."""

    def __init__(self, fan_in: int, fan_out: int, condition: int) -> None:
        super().__init__()
        self.norm_in = ConditionalBatchNorm2d(fan_in, condition)
        self.norm_out = ConditionalBatchNorm2d(fan_out, condition)
        self.grow = _convolution(fan_in, fan_out, 3)
        self.refine = _convolution(fan_out, fan_out, 3)
        self.skip = _convolution(fan_in, fan_out, 1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        branch = _doubled(F.relu(self.norm_in(x, condition)))
        branch = F.relu(self.norm_out(self.grow(branch), condition))
        added: Tensor = self.refine(branch) + self.skip(_doubled(x))
        return added


class BlockDown(nn.Module):
    """A residual block that halves, or keeps the size; the first one takes the picture as it is."""

    def __init__(self, fan_in: int, fan_out: int, *, first: bool, halves: bool) -> None:
        super().__init__()
        self.first, self.halves = first, halves
        self.widen = _convolution(fan_in, fan_out, 3)
        self.refine = _convolution(fan_out, fan_out, 3)
        self.skip = _convolution(fan_in, fan_out, 1) if fan_in != fan_out else nn.Identity()

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
        self.first = spectral_norm(nn.Linear(self.chunk, widths[0] * BASE**2))
        self.width = widths[0]
        self.blocks = nn.ModuleList(BlockUp(a, b, condition) for a, b in pairwise(widths))
        self.attention = nn.ModuleList(
            SelfAttention(width) if BASE * 2 ** (i + 1) == attention else nn.Identity()
            for i, width in enumerate(widths[1:])
        )
        self.last = nn.Sequential(
            BatchNorm2d(widths[-1]),
            nn.ReLU(inplace=True),
            _convolution(widths[-1], shape.channels, 3),
            nn.Tanh(),
        )
        self.apply(_orthogonal)

    def forward(self, z: Tensor, class_index: Tensor | None = None) -> Tensor:
        first, *rest = torch.split(z, self.chunk, dim=1)
        label = self.label.embedded(class_index)
        x = self.first(first).reshape(-1, self.width, BASE, BASE)
        for chunk, block, attention in zip(rest, self.blocks, self.attention, strict=True):
            condition = chunk if label is None else torch.cat([chunk, label], dim=1)
            x = attention(block(x, condition))
        images: Tensor = self.last(x)
        return images


class BigGANDiscriminator(nn.Module):
    """Pictures ``[N, C, H, W]`` and classes ``[N]`` to logits ``[N]``: positive is real."""

    def __init__(
        self, shape: ImageShape, widths: list[int], attention: int, conditioning: Conditioning
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        size = shape.height
        for i, (fan_in, fan_out) in enumerate(pairwise([shape.channels, *widths])):
            halves = size > BASE
            layers.append(BlockDown(fan_in, fan_out, first=i == 0, halves=halves))
            size = size // 2 if halves else size
            if size == attention:
                layers.append(SelfAttention(fan_out))
        self.blocks = nn.Sequential(*layers)
        self.judge = spectral_norm(nn.Linear(widths[-1], 1))
        self.project = ProjectedLabel(conditioning)
        self.apply(_orthogonal)
        if self.project.embed is not None:
            spectral_norm(self.project.embed)

    def forward(self, images: Tensor, class_index: Tensor | None = None) -> Tensor:
        features = F.relu(self.blocks(images)).sum((2, 3))
        logits: Tensor = self.judge(features).squeeze(1) + self.project(features, class_index)
        return logits


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


def _convolution(fan_in: int, fan_out: int, kernel: int, *, bias: bool = True) -> nn.Module:
    layer = nn.Conv2d(fan_in, fan_out, kernel, padding=kernel // 2, bias=bias)
    normalised: nn.Module = spectral_norm(layer)
    return normalised


def _orthogonal(module: nn.Module) -> None:
    """Begin orthogonal: Saxe et al. 2013, arXiv:1312.6120."""
    if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
        # Through the parametrisation of spectral normalisation, where there is one.
        weight = torch.empty_like(module.weight)
        nn.init.orthogonal_(weight)
        with torch.no_grad():
            module.weight = weight if hasattr(module, "parametrizations") else nn.Parameter(weight)


class _BigGANOptions(Options):
    network: Literal["biggan"]
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
    # How many values stand for the class, shared by all blocks.
    class_width: PositiveInt = 128

    def build(self, shape: ImageShape, classes: int = 0) -> BigGANGenerator:
        """Make the network with fresh weights from the global random state."""
        conditioning = Conditioning.of(classes, self.class_width)
        return BigGANGenerator(self.z_dim, shape, self.widths(shape), self.attention, conditioning)


class BigGANDiscriminatorOptions(_BigGANOptions):
    """A residual discriminator, told the class by projection."""

    def build(self, shape: ImageShape, classes: int = 0) -> BigGANDiscriminator:
        """Make the network with fresh weights from the global random state."""
        widths = self.widths(shape)[::-1]
        conditioning = Conditioning.of(classes, widths[-1])
        return BigGANDiscriminator(shape, widths, self.attention, conditioning)
