"""BigGAN-deep (Brock, Donahue, Simonyan 2018, arXiv:1809.11096, appendix B, tables 7 to 9).

Two bottleneck blocks per resolution replace BigGAN's plain block. The whole latent, concatenated
with the class embedding, is the input of the first layer and the condition of every batch
normalization. Skip connections are identities. To reduce channels, the generator drops the last
ones. To add channels, the discriminator appends the output of a 1×1 convolution.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.networks.layers.batch_norm import ConditionalBatchNorm2d
from training.networks.layers.conditioning import Conditioning, LabelEmbedding, concat_label
from training.networks.layers.resampling import upsample_nearest
from training.networks.layers.shapes import ImageShape
from training.networks.layers.spectral import spectral_conv, with_spectral_norm
from training.networks.noise.biggan_layers import (
    BASE,
    ProjectionDiscriminator,
    SelfAttention,
    ToImages,
    init_orthogonal,
)

# Bottleneck ratio: the 3×3 convolutions have a quarter of a block's channels.
RATIO = 4


class BottleneckUp(nn.Module):
    """A bottleneck block that upsamples by 2 if `doubles`; `fan_out` is at most `fan_in`."""

    def __init__(self, fan_in: int, fan_out: int, condition: int, *, doubles: bool) -> None:
        super().__init__()
        inner = max(fan_in // RATIO, 1)
        self.fan_out, self.doubles = fan_out, doubles
        self.norm_in = ConditionalBatchNorm2d(fan_in, condition)
        self.narrow = spectral_conv(fan_in, inner, 1)
        self.norm_grow = ConditionalBatchNorm2d(inner, condition)
        self.grow = spectral_conv(inner, inner, 3)
        self.norm_refine = ConditionalBatchNorm2d(inner, condition)
        self.refine = spectral_conv(inner, inner, 3)
        self.norm_out = ConditionalBatchNorm2d(inner, condition)
        self.widen = spectral_conv(inner, fan_out, 1)

    def forward(self, x: Tensor, condition: Tensor, standing: Tensor | None = None) -> Tensor:
        branch = self.narrow(F.relu(self.norm_in(x, condition, standing)))
        branch = F.relu(self.norm_grow(branch, condition, standing))
        branch = self.grow(upsample_nearest(branch) if self.doubles else branch)
        branch = self.refine(F.relu(self.norm_refine(branch, condition, standing)))
        branch = self.widen(F.relu(self.norm_out(branch, condition, standing)))
        output: Tensor = branch + self.skip(x)
        return output

    def skip(self, x: Tensor) -> Tensor:
        """Return the first `fan_out` channels, upsampled if needed."""
        kept = x[:, : self.fan_out]
        return upsample_nearest(kept) if self.doubles else kept


class BottleneckDown(nn.Module):
    """A bottleneck block that downsamples by 2 if `halves`; `fan_out` is at least `fan_in`."""

    def __init__(self, fan_in: int, fan_out: int, *, halves: bool) -> None:
        super().__init__()
        inner = max(fan_out // RATIO, 1)
        self.halves = halves
        self.narrow = spectral_conv(fan_in, inner, 1)
        self.look = spectral_conv(inner, inner, 3)
        self.refine = spectral_conv(inner, inner, 3)
        self.widen = spectral_conv(inner, fan_out, 1)
        self.more = spectral_conv(fan_in, fan_out - fan_in, 1) if fan_out > fan_in else None

    def forward(self, x: Tensor) -> Tensor:
        branch = self.look(F.relu(self.narrow(F.relu(x))))
        branch = F.relu(self.refine(F.relu(branch)))
        if self.halves:
            branch, x = F.avg_pool2d(branch, 2), F.avg_pool2d(x, 2)
        skip = x if self.more is None else torch.cat([x, self.more(x)], dim=1)
        output: Tensor = skip + self.widen(branch)
        return output


class BigGANDeepGenerator(nn.Module):
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
        self.label = LabelEmbedding(conditioning)
        condition = z_dim + conditioning.width
        self.first = with_spectral_norm(nn.Linear(condition, widths[0] * BASE**2))
        self.width = widths[0]
        self.keeping = nn.ModuleList(
            BottleneckUp(width, width, condition, doubles=False) for width in widths[:-1]
        )
        self.doubling = nn.ModuleList(
            BottleneckUp(a, b, condition, doubles=True) for a, b in pairwise(widths)
        )
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
        condition = concat_label(z, self.label.lookup(class_index))
        x = self.first(condition).reshape(-1, self.width, BASE, BASE)
        for keep, double, attention in zip(
            self.keeping, self.doubling, self.attention, strict=True
        ):
            x = attention(double(keep(x, condition, standing), condition, standing))
        images: Tensor = self.last(x, standing)
        return images


class BigGANDeepDiscriminator(ProjectionDiscriminator):
    """Maps images ``[N, C, H, W]`` and classes ``[N]`` to logits ``[N]``: positive means real."""

    def __init__(
        self, shape: ImageShape, widths: list[int], attention: int, conditioning: Conditioning
    ) -> None:
        blocks: list[nn.Module] = [spectral_conv(shape.channels, widths[0], 3)]
        size = shape.height
        for fan_in, fan_out in pairwise(widths):
            size //= 2
            blocks.append(BottleneckDown(fan_in, fan_out, halves=True))
            blocks.append(BottleneckDown(fan_out, fan_out, halves=False))
            if size == attention:
                blocks.append(SelfAttention(fan_out))
        super().__init__(blocks, widths[-1], conditioning)
