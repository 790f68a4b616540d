"""AnimeGANv2's generator: inverted residual blocks at a quarter of the side.

Chen et al. 2020, doi:10.1007/978-981-15-5577-0_18, in the layout of its PyTorch form; every
convolution is padded by reflection and normalised over all channels of the picture.
"""

from __future__ import annotations

import re

from torch import Tensor, nn
from torch.nn import functional as F

from service.runtime.models.manifest import ImageInput
from training.importers.formats.base import (
    ConvertedModel,
    Format,
    UserOptions,
    converted_image_to_image,
    input_side,
    load_weights,
)
from training.importers.formats.image.rrdb import square_channels
from training.importers.reading.weights import Network

_SLOPE = 0.2


class _Normed(nn.Sequential):
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


class _Inverted(nn.Module):
    def __init__(self, fan_in: int, width: int) -> None:
        super().__init__()
        inner = 2 * fan_in
        self.added = fan_in == width
        self.layers = nn.Sequential(
            _Normed(fan_in, inner, 1),
            _Normed(inner, inner, depthwise=True),
            nn.Conv2d(inner, width, 1, bias=False),
            nn.GroupNorm(1, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.layers(x)
        return x + made if self.added else made


class AnimeGenerator(nn.Module):
    """Pictures ``[N, C, H, W]`` in [-1, 1] to the same, for sides in steps of 4."""

    def __init__(self, channels: int, width: int, blocks: int) -> None:
        super().__init__()
        w, w2, w4 = width, 2 * width, 4 * width
        self.block_a = nn.Sequential(
            _Normed(channels, w, 7), _Normed(w, w2, stride=2), _Normed(w2, w2)
        )
        self.block_b = nn.Sequential(_Normed(w2, w4, stride=2), _Normed(w4, w4))
        inverted = [_Inverted(w4 if i == 0 else 2 * w4, 2 * w4) for i in range(blocks)]
        self.block_c = nn.Sequential(_Normed(w4, w4), *inverted, _Normed(2 * w4, w4))
        self.block_d = nn.Sequential(_Normed(w4, w4), _Normed(w4, w4))
        self.block_e = nn.Sequential(_Normed(w4, w2), _Normed(w2, w2), _Normed(w2, w, 7))
        self.out_layer = nn.Sequential(nn.Conv2d(w, channels, 1, bias=False), nn.Tanh())

    def forward(self, images: Tensor) -> Tensor:
        half = self.block_a(images)
        x = self.block_c(self.block_b(half))
        x = self.block_d(_enlarged(x, half))
        made: Tensor = self.out_layer(self.block_e(_enlarged(x, images)))
        return made


def _enlarged(x: Tensor, to: Tensor) -> Tensor:
    return F.interpolate(x, to.shape[2:], mode="bilinear", align_corners=True)


class AnimeGan(Format):
    """The layout of animegan2-pytorch."""

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

    def convert(self, network: Network, options: UserOptions) -> ConvertedModel:
        """Build the network."""
        width, channels = network.tensors["block_a.0.1.weight"].shape[:2]
        blocks = sum(
            bool(re.fullmatch(r"block_c\.\d+\.layers\.2\.weight", name)) for name in network.tensors
        )
        # At a quarter of the side a pixel is reflected: there have to be two.
        given = ImageInput(
            channels=square_channels(channels),
            side=input_side(options, 256, 4),
            multiple=4,
            least=8,
        )
        return converted_image_to_image(
            "Photographs to drawings, by AnimeGANv2",
            "translate",
            load_weights(AnimeGenerator(channels, width, blocks), network),
            given,
            channels,
            details=[("inverted residual blocks", str(blocks)), ("width", str(width))],
        )
