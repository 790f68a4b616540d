"""StyleGAN (Karras et al. 2018, arXiv:1812.04948).

The generator consists of a mapping network from z to w, and a synthesis network that starts from a
learned constant. Each layer adds noise. The layer's style then sets the mean and standard deviation
of every feature map (AdaIN). The discriminator is the discriminator of progressive growing.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.networks.layers.conditioning import Conditioning
from training.networks.layers.equalized import EqualizedConv2d, EqualizedLinear, leaky_relu
from training.networks.layers.growth import Growth
from training.networks.layers.resampling import Blur, upsample_nearest
from training.networks.layers.shapes import ImageShape
from training.networks.noise.progressive_discriminator import ProgressiveDiscriminator
from training.networks.noise.style_generator import (
    BASE,
    StyleDiscriminatorOptions,
    StyleGeneratorOptions,
)


class AdaptiveInstanceNorm(nn.Module):
    """AdaIN (equation 1): sets the scale and mean of feature maps ``[N, C, H, W]`` from ``w``."""

    def __init__(self, channels: int, w_dim: int) -> None:
        super().__init__()
        self.style = EqualizedLinear(w_dim, 2 * channels)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        scale, mean = self.style(w).float()[:, :, None, None].chunk(2, dim=1)
        # Statistics in float32.
        centered = x.float() - x.float().mean((2, 3), keepdim=True)
        deviation = (centered.square().mean((2, 3), keepdim=True) + 1e-8).sqrt()
        # Styles start near 0, so 1 + scale starts near 1.
        adapted: Tensor = centered / deviation * (1 + scale) + mean
        return adapted.to(x.dtype)


class Epilogue(nn.Module):
    """The operations after every convolution: noise, bias, LeakyReLU and AdaIN."""

    noise: Tensor

    def __init__(self, channels: int, size: int, w_dim: int) -> None:
        super().__init__()
        # "B" of figure 1: one learned noise strength per feature map.
        self.noise_strength = nn.Parameter(torch.zeros(channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))
        self.adapt = AdaptiveInstanceNorm(channels, w_dim)
        # Fixed noise for eval mode, in which an image must depend only on its latent.
        self.register_buffer("noise", torch.randn(1, 1, size, size))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        noise = self.noise
        if self.training:
            noise = torch.randn(len(x), 1, *x.shape[2:], device=x.device)
        x = x + (noise * self.noise_strength).to(x.dtype) + self.bias.to(x.dtype)
        adapted: Tensor = self.adapt(leaky_relu(x), w)
        return adapted


class DoublingConv2d(nn.Module):
    """Filtered upsampling and a 3×3 convolution: ``[N, fan_out, 2H, 2W]`` (section 2).

    Implemented as a transposed convolution followed by the filter. The results are equal except at
    the border, with a quarter of the multiplications.
    """

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(fan_out, fan_in, 3, 3))
        self.scale = 1 / math.sqrt(fan_in * 3**2)
        # Upsampling by zero insertion divides the mean by 4. The filter's gain restores it.
        self.blur = Blur(pad=1, gain=4.0)

    def forward(self, x: Tensor) -> Tensor:
        # A transposed convolution flips its kernel.
        weight = (self.weight * self.scale).transpose(0, 1).flip(2, 3)
        filtered: Tensor = self.blur(F.conv_transpose2d(x, weight, stride=2))
        return filtered


class SynthesisBlock(nn.Module):
    """One resolution: upsamples ``[N, C, H, W]`` by 2, in two layers."""

    def __init__(self, fan_in: int, fan_out: int, size: int, w_dim: int) -> None:
        super().__init__()
        self.grow = DoublingConv2d(fan_in, fan_out)
        self.first = Epilogue(fan_out, size, w_dim)
        self.refine = EqualizedConv2d(fan_out, fan_out, 3, bias=False)
        self.second = Epilogue(fan_out, size, w_dim)

    def forward(self, x: Tensor, w: Tensor, w_next: Tensor) -> Tensor:
        x = self.first(self.grow(x), w)
        refined: Tensor = self.second(self.refine(x), w_next)
        return refined


class StyleGANSynthesis(nn.Module):
    """Maps styles ``w`` ``[N, layers, w_dim]`` to images ``[N, C, H, W]``, near [-1, 1].

    There are two layers per resolution. With `grows`, each resolution has an output layer.
    """

    def __init__(
        self, shape: ImageShape, widths: list[int], w_dim: int, *, grows: bool = False
    ) -> None:
        super().__init__()
        sides = [BASE * 2**i for i in range(len(widths))]
        self.layer_resolutions = [side for side in sides for _ in range(2)]
        # Random, not ones: AdaIN of a constant feature map would amplify rounding errors.
        self.constant = nn.Parameter(torch.randn(1, widths[0], BASE, BASE))
        self.first = Epilogue(widths[0], BASE, w_dim)
        self.refine = EqualizedConv2d(widths[0], widths[0], 3, bias=False)
        self.second = Epilogue(widths[0], BASE, w_dim)
        self.blocks = nn.ModuleDict(
            {
                str(side): SynthesisBlock(fan_in, fan_out, side, w_dim)
                for side, (fan_in, fan_out) in zip(sides[1:], pairwise(widths), strict=True)
            }
        )
        self.to_image = nn.ModuleDict(
            {
                str(side): EqualizedConv2d(width, shape.channels, 1)
                for side, width in zip(sides, widths, strict=True)
                if grows or side == shape.height
            }
        )

    def forward(self, w: Tensor, growth: Growth | None = None) -> Tensor:
        """Generate images with the full side, or with `growth.side` if given."""
        # Use w.shape[0], because the ONNX exporter would turn len(w) into a constant.
        x = self.first(self.constant.expand(w.shape[0], -1, -1, -1), w[:, 0])
        x = self.second(self.refine(x), w[:, 1])
        side, previous = BASE, x
        for i, (name, block) in enumerate(self.blocks.items()):
            if growth and side == growth.side:
                break
            side, previous = int(name), x
            x = block(x, w[:, 2 * i + 2], w[:, 2 * i + 3])
        image: Tensor = self.to_image[str(side)](x)
        if growth and growth.alpha < 1:
            coarse = upsample_nearest(self.to_image[str(side // 2)](previous))
            image = coarse.lerp(image, growth.alpha)
        return image


class PlainDown(nn.Module):
    """Halves the side: a 3×3 convolution, a blur, and a strided 3×3 convolution."""

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.keep = EqualizedConv2d(fan_in, fan_in, 3)
        self.blur = Blur(pad=2)
        self.widen = EqualizedConv2d(fan_in, fan_out, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return leaky_relu(self.widen(self.blur(leaky_relu(self.keep(x)))))


class StyleGANGeneratorOptions(StyleGeneratorOptions):
    """A mapping network and a synthesis network with adaptive instance normalization."""

    network: Literal["stylegan"]

    def synthesis(self, shape: ImageShape, *, grows: bool) -> StyleGANSynthesis:
        """Build the synthesis network."""
        return StyleGANSynthesis(shape, self.widths(shape), self.w_dim, grows=grows)


class StyleGANDiscriminatorOptions(StyleDiscriminatorOptions):
    """The discriminator of progressive growing, conditioned by projection."""

    network: Literal["stylegan"]

    def conditioned(
        self, shape: ImageShape, conditioning: Conditioning, *, grows: bool
    ) -> ProgressiveDiscriminator:
        """Build the network."""
        widths = self.widths(shape)[::-1]
        return ProgressiveDiscriminator(shape, widths, conditioning, PlainDown, grows=grows)
