"""AnimeGANv2's generator: inverted residual blocks at a quarter of the resolution.

Chen et al. 2020, doi:10.1007/978-981-15-5577-0_18, in the layout of the PyTorch port. Every
convolution has reflection padding and layer normalization.
"""

from __future__ import annotations

import re

from torch import Tensor, nn
from torch.nn import functional as F

from service.runtime.models.parts.inputs import ImageInput
from training.importers.formats.base import (
    ConvertedModel,
    Format,
    converted_image_to_image,
    input_channels,
    input_side,
    load_weights,
)
from training.importers.options import Choices
from training.importers.reading.weights import Network

_SLOPE = 0.2


class _ConvNormActivation(nn.Sequential):
    """Reflection padding, convolution, layer normalization, LeakyReLU."""

    def __init__(
        self, fan_in: int, width: int, size: int = 3, stride: int = 1, *, depthwise: bool = False
    ) -> None:
        pad = (0, 1, 0, 1) if stride == 2 else (size // 2,) * 4
        groups = fan_in if depthwise else 1
        super().__init__(
            nn.ReflectionPad2d(pad),
            nn.Conv2d(fan_in, width, size, stride, groups=groups, bias=depthwise),
            nn.GroupNorm(1, width),
            nn.LeakyReLU(_SLOPE),
        )


class _InvertedResidual(nn.Module):
    """An inverted residual block, with a skip connection if the channel counts are equal."""

    def __init__(self, fan_in: int, width: int) -> None:
        super().__init__()
        inner = 2 * fan_in
        self.has_skip = fan_in == width
        self.layers = nn.Sequential(
            _ConvNormActivation(fan_in, inner, 1),
            _ConvNormActivation(inner, inner, depthwise=True),
            nn.Conv2d(inner, width, 1, bias=False),
            nn.GroupNorm(1, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layers(x)
        return x + output if self.has_skip else output


class AnimeGenerator(nn.Module):
    """Maps images ``[N, C, H, W]`` to images of the same shape, in [-1, 1].

    Sides must be multiples of 4.
    """

    def __init__(self, channels: int, width: int, blocks: int) -> None:
        super().__init__()
        w, w2, w4 = width, 2 * width, 4 * width
        self.block_a = nn.Sequential(
            _ConvNormActivation(channels, w, 7),
            _ConvNormActivation(w, w2, stride=2),
            _ConvNormActivation(w2, w2),
        )
        self.block_b = nn.Sequential(
            _ConvNormActivation(w2, w4, stride=2), _ConvNormActivation(w4, w4)
        )
        inverted = [_InvertedResidual(w4 if i == 0 else 2 * w4, 2 * w4) for i in range(blocks)]
        self.block_c = nn.Sequential(
            _ConvNormActivation(w4, w4), *inverted, _ConvNormActivation(2 * w4, w4)
        )
        self.block_d = nn.Sequential(_ConvNormActivation(w4, w4), _ConvNormActivation(w4, w4))
        self.block_e = nn.Sequential(
            _ConvNormActivation(w4, w2), _ConvNormActivation(w2, w2), _ConvNormActivation(w2, w, 7)
        )
        self.out_layer = nn.Sequential(nn.Conv2d(w, channels, 1, bias=False), nn.Tanh())

    def forward(self, images: Tensor) -> Tensor:
        half = self.block_a(images)
        x = self.block_c(self.block_b(half))
        x = self.block_d(_resize_like(x, half))
        outputs: Tensor = self.out_layer(self.block_e(_resize_like(x, images)))
        return outputs


def _resize_like(x: Tensor, reference: Tensor) -> Tensor:
    return F.interpolate(x, reference.shape[2:], mode="bilinear", align_corners=True)


class AnimeGan(Format):
    """The checkpoint layout of animegan2-pytorch."""

    name = "animegan2"
    title = "AnimeGANv2"
    origin = "animegan2-pytorch (MIT), Chen et al. 2020"
    required_keys = (
        r"block_a\.0\.1\.weight",
        r"block_b\.0\.1\.weight",
        r"block_c\.1\.layers\.0\.1\.weight",
        r"block_e\.2\.1\.weight",
        r"out_layer\.0\.weight",
    )
    published = (
        "LeakyReLU(0.2), reflection padding, layer normalization before the activations, "
        "bilinear upsampling, tanh at the end"
    )

    def convert(self, network: Network, options: Choices) -> ConvertedModel:
        """Build the network."""
        width, channels = network.tensors["block_a.0.1.weight"].shape[:2]
        blocks = sum(
            bool(re.fullmatch(r"block_c\.\d+\.layers\.2\.weight", name)) for name in network.tensors
        )
        # Reflection padding requires two pixels at a quarter of the side.
        image_input = ImageInput(
            channels=input_channels(channels),
            side=input_side(options, 256, 4),
            multiple=4,
            least=8,
        )
        return converted_image_to_image(
            "AnimeGANv2: photographs to anime drawings",
            "translate",
            load_weights(AnimeGenerator(channels, width, blocks), network),
            image_input,
            channels,
            options=options,
            details=[("inverted residual blocks", str(blocks)), ("width", str(width))],
        )
