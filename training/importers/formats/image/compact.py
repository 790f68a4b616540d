"""Real-ESRGAN's compact network (SRVGG): plain convolutions at the low resolution.

Pixel shuffling upsamples the output, which is added to the nearest-neighbor upsampled input.
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

from service.runtime.models.parts.inputs import ImageInput
from training.importers.errors import FormatMismatchError
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


class CompactNet(nn.Module):
    """Maps images ``[N, C, h, w]`` in [0, 1] to ``[N, C, factor·h, factor·w]``."""

    def __init__(self, channels: int, width: int, convolutions: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        body: list[nn.Module] = []
        for i in range(convolutions):
            last = i == convolutions - 1
            fan_in = channels if i == 0 else width
            fan_out = channels * factor**2 if last else width
            body.append(nn.Conv2d(fan_in, fan_out, 3, padding=1))
            body += [] if last else [nn.PReLU(width)]
        self.body = nn.Sequential(*body)

    def forward(self, images: Tensor) -> Tensor:
        residual: Tensor = self.body(images)
        if self.factor > 1:
            residual = F.pixel_shuffle(residual, self.factor)
        return residual + F.interpolate(images, scale_factor=float(self.factor))


class Compact(Format):
    """``realesr-animevideov3``, ``realesr-general-x4v3`` and other SRVGG checkpoints."""

    name = "compact"
    title = "Real-ESRGAN Compact (SRVGG)"
    origin = "Real-ESRGAN (BSD-3), Wang et al. 2021"
    required_keys = (r"body\.0\.weight", r"body\.0\.bias", r"body\.1\.weight", r"body\.2\.weight")
    excluded_keys = (r"body\.1\.(bias|running_mean)", r"(?!body\.).*", r"body\.\d+\.\w+\..*")
    published = "PReLU, zero padding, and the input added to the output"

    def convert(self, network: Network, options: Choices) -> ConvertedModel:
        """Build the network. The last convolution's output channels determine the factor."""
        numbers = sorted({int(name.split(".")[1]) for name in network.tensors})
        width, channels = network.tensors["body.0.weight"].shape[:2]
        last = network.tensors[f"body.{numbers[-1]}.weight"]
        factor = math.isqrt(last.shape[0] // channels)
        if factor**2 * channels != last.shape[0] or last.ndim != 4:
            raise FormatMismatchError(
                f"its last convolution has {last.shape[0]} output channels; expected {channels} "
                "times a square number"
            )
        convolutions = len(numbers) // 2 + 1
        image_input = ImageInput(
            channels=input_channels(channels),
            side=input_side(options, 64),
            factor=factor,
            reach=convolutions,
        )
        return converted_image_to_image(
            f"Real-ESRGAN compact: ×{factor} upscaling" if factor > 1 else "Real-ESRGAN compact",
            "upscale" if factor > 1 else "translate",
            load_weights(CompactNet(channels, width, convolutions, factor), network),
            image_input,
            channels,
            (0.0, 1.0),
            (0.0, 1.0),
            options=options,
            details=[("factor", str(factor)), ("convolutions", str(convolutions))],
        )
