"""Real-ESRGAN's compact network: plain convolutions at the small size, unfolded at the end.

Its picture is added to the one that went in, enlarged by nearest neighbour.
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

from service.runtime.models.manifest import ImageInput
from training.importers.errors import FormatMismatchError
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


class CompactNet(nn.Module):
    """Pictures ``[N, C, h, w]`` in [0, 1] to ``[N, C, factor·h, factor·w]``."""

    def __init__(self, channels: int, width: int, convolutions: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        body: list[nn.Module] = []
        for i in range(convolutions):
            last = i == convolutions - 1
            made = channels * factor**2 if last else width
            body.append(nn.Conv2d(channels if i == 0 else width, made, 3, padding=1))
            body += [] if last else [nn.PReLU(width)]
        self.body = nn.Sequential(*body)

    def forward(self, images: Tensor) -> Tensor:
        made = (
            F.pixel_shuffle(self.body(images), self.factor)
            if self.factor > 1
            else self.body(images)
        )
        return made + F.interpolate(images, scale_factor=float(self.factor))


class Compact(Format):
    """``realesr-animevideov3``, ``realesr-general-x4v3`` and others of the layout."""

    name = "compact"
    title = "Real-ESRGAN Compact (SRVGG)"
    origin = "Real-ESRGAN (BSD-3), Wang et al. 2021"
    required_keys = (r"body\.0\.weight", r"body\.0\.bias", r"body\.1\.weight", r"body\.2\.weight")
    excluded_keys = (r"body\.1\.(bias|running_mean)", r"(?!body\.).*", r"body\.\d+\.\w+\..*")

    def convert(self, network: Network, options: UserOptions) -> ConvertedModel:
        """Build the network: the factor is in what the last convolution gives."""
        numbers = sorted({int(name.split(".")[1]) for name in network.tensors})
        width, channels = network.tensors["body.0.weight"].shape[:2]
        last = network.tensors[f"body.{numbers[-1]}.weight"]
        factor = math.isqrt(last.shape[0] // channels)
        if factor**2 * channels != last.shape[0] or last.ndim != 4:
            raise FormatMismatchError("its last convolution gives no enlarged picture")
        convolutions = len(numbers) // 2 + 1
        given = ImageInput(
            channels=square_channels(channels),
            side=input_side(options, 64),
            factor=factor,
            reach=convolutions,
        )
        return converted_image_to_image(
            f"{factor} times the side, by a compact network",
            "upscale" if factor > 1 else "translate",
            load_weights(CompactNet(channels, width, convolutions, factor), network),
            given,
            channels,
            (0.0, 1.0),
            (0.0, 1.0),
            details=[("factor", str(factor)), ("convolutions", str(convolutions))],
        )
