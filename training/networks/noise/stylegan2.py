"""StyleGAN2 (Karras et al. 2019, arXiv:1912.04958).

A mapping network from z to w, a synthesis network with one style per layer, weight demodulation,
noise in every layer, a skip generator and a residual discriminator.

Modulation is implemented for export: the style scales the *input* of the convolution, and the
demodulation scales its *output*. This is equal to the paper's fused form, in which a grouped
convolution with one group per row would fix the batch size of the exported graph.
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
from training.networks.layers.resampling import Blur, Downsample, Upsample, upsample_nearest
from training.networks.layers.shapes import ImageShape
from training.networks.noise.progressive_discriminator import ProgressiveDiscriminator
from training.networks.noise.style_generator import (
    BASE,
    StyleDiscriminatorOptions,
    StyleGeneratorOptions,
)


class ModulatedConv2d(nn.Module):
    """A convolution with modulated and demodulated weights (equations 1 and 3).

    Takes features ``[N, fan_in, H, W]`` and styles ``[N, w_dim]``. With `doubles`, it upsamples
    by 2.
    """

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
        # Upsampling by zero insertion divides the mean by 4. The filter's gain restores it.
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
            # Equation 3: the norm of each output channel's modulated weights.
            energy = style.float().square() @ weight.float().square().sum((2, 3)).t()
            x = x * torch.rsqrt(energy + 1e-8)[:, :, None, None].to(x.dtype)
        return x


class StyledLayer(nn.Module):
    """Modulated convolution, noise, bias and LeakyReLU."""

    noise: Tensor

    def __init__(
        self, fan_in: int, fan_out: int, size: int, w_dim: int, *, doubles: bool = False
    ) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(fan_in, fan_out, 3, w_dim, doubles=doubles)
        self.bias = nn.Parameter(torch.zeros(fan_out))
        self.noise_strength = nn.Parameter(torch.zeros(()))
        # Fixed noise for eval mode, in which an image must depend only on its latent.
        self.register_buffer("noise", torch.randn(1, 1, size, size))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        x = self.conv(x, w)
        noise = self.noise
        if self.training:
            noise = torch.randn(len(x), 1, *x.shape[2:], device=x.device)
        x = x + (noise * self.noise_strength).to(x.dtype) + self.bias[:, None, None].to(x.dtype)
        return leaky_relu(x)


class ToImage(nn.Module):
    """A 1×1 convolution from features to an image, modulated but not demodulated."""

    def __init__(self, fan_in: int, channels: int, w_dim: int) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(fan_in, channels, 1, w_dim, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(channels))

    @torch.no_grad()
    def start_at_zero(self) -> None:
        """Add nothing to the image at first: for a resolution that a trained network did not have.

        Random weights would draw noise over the images of the network, which takes long to unlearn.
        """
        self.conv.weight.zero_()

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        image: Tensor = self.conv(x, w) + self.bias[:, None, None]
        return image


class StyleGAN2Synthesis(nn.Module):
    """Maps styles ``w`` ``[N, layers, w_dim]`` to images ``[N, C, H, W]``, near [-1, 1].

    This is a skip generator: each resolution adds an image to the upsampled image of the previous
    resolution. The style of each output layer is also the style of the first layer of the next
    resolution.
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
        # The last output layer has a style of its own.
        self.layer_resolutions.append(size)

    def forward(self, w: Tensor, growth: Growth | None = None) -> Tensor:
        """Generate images with the full side, or with `growth.side` if given.

        A new resolution fades in from a nearest-neighbor upsampled image, not from a filtered one.
        Real images are upsampled in the same way (`match_growth`), so that the discriminator cannot
        distinguish them by the filter.
        """
        # Use w.shape[0], because the ONNX exporter would turn len(w) into a constant.
        x = self.first(self.constant.expand(w.shape[0], -1, -1, -1), w[:, 0])
        image: Tensor = self.first_image(x, w[:, 1])
        if growth and growth.side == BASE:
            return image
        stages = zip(self.grow, self.refine, self.to_image, strict=True)
        for i, (grow, refine, to_image) in enumerate(stages):
            x = grow(x, w[:, 2 * i + 1])
            x = refine(x, w[:, 2 * i + 2])
            previous, image = image, self.upsample(image) + to_image(x, w[:, 2 * i + 3])
            if growth and image.shape[-1] == growth.side:
                return (
                    image
                    if growth.alpha == 1
                    else upsample_nearest(previous).lerp(image, growth.alpha)
                )
        return image


class ResidualDown(nn.Module):
    """A residual block that halves the side, with a downsampling 1×1 skip connection."""

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.keep = EqualizedConv2d(fan_in, fan_in, 3)
        self.blur = Blur(pad=2)
        self.halve = EqualizedConv2d(fan_in, fan_out, 3, stride=2)
        self.downsample = Downsample()
        self.skip = EqualizedConv2d(fan_in, fan_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        branch = leaky_relu(self.halve(self.blur(leaky_relu(self.keep(x)))))
        output: Tensor = branch + self.skip(self.downsample(x))
        return output / math.sqrt(2)


class StyleGAN2GeneratorOptions(StyleGeneratorOptions):
    """A mapping network and a synthesis network with modulated convolutions."""

    network: Literal["stylegan2"]

    def synthesis(
        self,
        shape: ImageShape,
        *,
        grows: bool,  # noqa: ARG002 - every resolution has an output layer anyway
    ) -> StyleGAN2Synthesis:
        """Build the synthesis network."""
        return StyleGAN2Synthesis(shape, self.widths(shape), self.w_dim)


class StyleGAN2DiscriminatorOptions(StyleDiscriminatorOptions):
    """A residual discriminator, conditioned by projection."""

    network: Literal["stylegan2"]

    def conditioned(
        self, shape: ImageShape, conditioning: Conditioning, *, grows: bool
    ) -> ProgressiveDiscriminator:
        """Build the network."""
        widths = self.widths(shape)[::-1]
        return ProgressiveDiscriminator(shape, widths, conditioning, ResidualDown, grows=grows)
