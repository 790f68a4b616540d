"""StyleGAN2 (Karras et al. 2019, arXiv:1912.04958).

A mapping network from z to w, a synthesis network with one w for each layer, weight demodulation,
noise in every layer, a skip generator and a residual discriminator.

Demodulation is written for export: the style scales the convolution's *input* and the
demodulation its *output*, which equals the fused form of the paper, whose grouped convolution with
as many groups as rows would fix the batch.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from training.networks.conditioning import Conditioning, LabelEmbedding, ProjectedLabel
from training.networks.equalized import EqualizedConv2d, EqualizedLinear, leaky_relu
from training.networks.minibatch import MinibatchStandardDeviation
from training.networks.noise import NoiseOptions
from training.networks.resampling import Blur, Downsample, Upsample
from training.networks.shapes import ImageShape
from training.networks.styles import StyleGenerator
from training.options import Options

BASE = 4
# The mapping network learns this much slower than the rest (appendix B).
MAPPING_RATE = 0.01


class MappingNetwork(nn.Module):
    """Latents ``[N, z_dim]`` and classes ``[N]`` to styles ``w`` ``[N, w_dim]``."""

    def __init__(self, z_dim: int, w_dim: int, layers: int, conditioning: Conditioning) -> None:
        super().__init__()
        self.label = LabelEmbedding(conditioning)
        widths = [z_dim + conditioning.width] + [w_dim] * layers
        self.layers = nn.ModuleList(
            EqualizedLinear(a, b, rate=MAPPING_RATE) for a, b in pairwise(widths)
        )

    def forward(self, z: Tensor, class_index: Tensor | None = None) -> Tensor:
        w = _normalised(z)
        if (label := self.label.embedded(class_index)) is not None:
            w = torch.cat([w, _normalised(label)], dim=1)
        for layer in self.layers:
            w = leaky_relu(layer(w))
        return w


class ModulatedConv2d(nn.Module):
    """A convolution whose weights each row's style scales: ``[N, C, H, W]``, ``[N, w_dim]``."""

    def __init__(
        self,
        fan_in: int,
        fan_out: int,
        kernel: int,
        w_dim: int,
        *,
        demodulate: bool = True,
        doubles: bool = False,
    ) -> None:
        super().__init__()
        self.style = EqualizedLinear(w_dim, fan_in, bias=1.0)
        self.weight = nn.Parameter(torch.randn(fan_out, fan_in, kernel, kernel))
        self.scale = 1 / math.sqrt(fan_in * kernel**2)
        self.padding = kernel // 2
        self.demodulate = demodulate
        # Doubling spreads each value over four, so the filter after it has four times the gain.
        self.blur = Blur(pad=1, gain=4.0) if doubles else None

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        style = self.style(w)
        weight = self.weight * self.scale
        x = x * style[:, :, None, None].to(x.dtype)
        if self.blur is not None:
            x = F.conv_transpose2d(x, weight.transpose(0, 1).to(x.dtype), stride=2)
            x = self.blur(x)
        else:
            x = F.conv2d(x, weight.to(x.dtype), padding=self.padding)
        if self.demodulate:
            # Equation 3: the norm of each output's weights, after the style has scaled them.
            energy = style.float().square() @ weight.float().square().sum((2, 3)).t()
            x = x * torch.rsqrt(energy + 1e-8)[:, :, None, None].to(x.dtype)
        return x


class StyledLayer(nn.Module):
    """Modulated convolution, noise, bias, LeakyReLU."""

    noise: Tensor

    def __init__(
        self, fan_in: int, fan_out: int, size: int, w_dim: int, *, doubles: bool = False
    ) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(fan_in, fan_out, 3, w_dim, doubles=doubles)
        self.bias = nn.Parameter(torch.zeros(fan_out))
        self.noise_strength = nn.Parameter(torch.zeros(()))
        # The noise that stands in for all draws when a picture shall depend on its latent alone.
        self.register_buffer("noise", torch.randn(1, 1, size, size))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        x = self.conv(x, w)
        noise = self.noise
        if self.training:
            noise = torch.randn(len(x), 1, *x.shape[2:], device=x.device)
        x = x + (noise * self.noise_strength).to(x.dtype) + self.bias[:, None, None].to(x.dtype)
        return leaky_relu(x)


class ToImage(nn.Module):
    """Features to a picture, 1×1, modulated and not demodulated."""

    def __init__(self, fan_in: int, channels: int, w_dim: int) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(fan_in, channels, 1, w_dim, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        image: Tensor = self.conv(x, w) + self.bias[:, None, None]
        return image


class SynthesisNetwork(nn.Module):
    """Styles ``w`` ``[N, layers, w_dim]`` to pictures ``[N, C, H, W]``, near [-1, 1].

    Each resolution adds its picture to the doubled one of the resolution before. Its last style
    makes its picture and is the first of the next resolution's layers.
    """

    def __init__(self, shape: ImageShape, widths: list[int], w_dim: int) -> None:
        super().__init__()
        self.layer_resolutions = [BASE]
        self.constant = nn.Parameter(torch.randn(1, widths[0], BASE, BASE))
        self.first = StyledLayer(widths[0], widths[0], BASE, w_dim)
        self.first_image = ToImage(widths[0], shape.channels, w_dim)
        self.grow, self.refine, self.to_image = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.upsample = Upsample()
        size = BASE
        for fan_in, fan_out in pairwise(widths):
            size *= 2
            self.grow.append(StyledLayer(fan_in, fan_out, size, w_dim, doubles=True))
            self.refine.append(StyledLayer(fan_out, fan_out, size, w_dim))
            self.to_image.append(ToImage(fan_out, shape.channels, w_dim))
            self.layer_resolutions += [size, size]
        # The last picture has a style of its own.
        self.layer_resolutions.append(size)

    def forward(self, w: Tensor) -> Tensor:
        # Not len(w), which an exporter would take for a constant.
        x = self.first(self.constant.expand(w.shape[0], -1, -1, -1), w[:, 0])
        image: Tensor = self.first_image(x, w[:, 1])
        stages = zip(self.grow, self.refine, self.to_image, strict=True)
        for i, (grow, refine, to_image) in enumerate(stages):
            x = grow(x, w[:, 2 * i + 1])
            x = refine(x, w[:, 2 * i + 2])
            image = self.upsample(image) + to_image(x, w[:, 2 * i + 3])
        return image


class ResidualDown(nn.Module):
    """Two convolutions, the second halving, beside a 1×1 that halves too."""

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.keep = EqualizedConv2d(fan_in, fan_in, 3)
        self.blur = Blur(pad=2)
        self.halve = EqualizedConv2d(fan_in, fan_out, 3, stride=2)
        self.downsample = Downsample()
        self.skip = EqualizedConv2d(fan_in, fan_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        branch = leaky_relu(self.halve(self.blur(leaky_relu(self.keep(x)))))
        added: Tensor = branch + self.skip(self.downsample(x))
        return added / math.sqrt(2)


class StyleGAN2Discriminator(nn.Module):
    """Pictures ``[N, C, H, W]`` and classes ``[N]`` to logits ``[N]``: positive is real."""

    def __init__(self, shape: ImageShape, widths: list[int], classes: int) -> None:
        super().__init__()
        self.from_image = EqualizedConv2d(shape.channels, widths[0], 1)
        self.blocks = nn.Sequential(*(ResidualDown(a, b) for a, b in pairwise(widths)))
        self.deviation = MinibatchStandardDeviation()
        last = widths[-1]
        self.last = EqualizedConv2d(last + self.deviation.added, last, 3)
        self.features = EqualizedLinear(last * BASE**2, last)
        self.judge = EqualizedLinear(last, 1)
        self.project = ProjectedLabel(Conditioning.of(classes, last))

    def forward(self, images: Tensor, class_index: Tensor | None = None) -> Tensor:
        x = self.blocks(leaky_relu(self.from_image(images)))
        x = leaky_relu(self.last(self.deviation(x)))
        features = leaky_relu(self.features(x.flatten(1)))
        by_class = self.project(features, class_index) / math.sqrt(features.shape[1])
        logits: Tensor = self.judge(features).squeeze(1) + by_class
        return logits


def resolutions(size: int) -> list[int]:
    """Return the sides from 4 to `size`. Raises ValueError unless it is 2^k, 16 to 1024."""
    if size not in (16, 32, 64, 128, 256, 512, 1024):
        raise ValueError(f"StyleGAN2 needs a side of 16, 32, 64, … 1024; got {size}")
    return [BASE * 2**i for i in range(int(math.log2(size // BASE)) + 1)]


def _normalised(x: Tensor) -> Tensor:
    """Scale rows to a mean square of 1."""
    # As a product, whose rows are bit-identical at any batch in ONNX Runtime; a mean over rows of
    # two axes is not: it adds a single row up in another order.
    count = x.shape[1]
    mean_square = x.square() @ x.new_full((count, 1), 1 / count)
    return x * torch.rsqrt(mean_square + 1e-8)


class _StyleGAN2Options(Options):
    network: Literal["stylegan2"]
    # Channels at the full resolution; twice as many at half of it, up to `most`.
    width: PositiveInt = 64
    most: PositiveInt = 512

    def widths(self, shape: ImageShape) -> list[int]:
        """Return the channels at each resolution, from 4×4 up."""
        sides = resolutions(shape.height)
        return [min(self.width * shape.height // side, self.most) for side in sides]


class StyleGAN2GeneratorOptions(_StyleGAN2Options, NoiseOptions):
    """A mapping and a synthesis network."""

    z_dim: PositiveInt = 512
    w_dim: PositiveInt = 512
    mapping_layers: PositiveInt = 8
    # How many values stand for the class, where the recipe is conditional.
    class_width: PositiveInt = 64

    def build(self, shape: ImageShape, classes: int = 0) -> StyleGenerator:
        """Make the network with fresh weights from the global random state."""
        conditioning = Conditioning.of(classes, self.class_width)
        return StyleGenerator(
            MappingNetwork(self.z_dim, self.w_dim, self.mapping_layers, conditioning),
            SynthesisNetwork(shape, self.widths(shape), self.w_dim),
            self.w_dim,
        )


class StyleGAN2DiscriminatorOptions(_StyleGAN2Options):
    """A residual discriminator, told the class by projection."""

    def build(self, shape: ImageShape, classes: int = 0) -> StyleGAN2Discriminator:
        """Make the network with fresh weights from the global random state."""
        return StyleGAN2Discriminator(shape, self.widths(shape)[::-1], classes)
