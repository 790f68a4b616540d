"""R3GAN's generator (Huang et al. 2024, arXiv:2501.05441), from the authors' network pickles.

Blocks of three convolutions without normalization; resolutions change by a fixed filter. The
authors' network differs from `training.networks.noise.r3gan` at the borders of the image, where its
filter reads zeros.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.importers.errors import FormatMismatchError
from training.importers.formats.base import (
    ConvertedModel,
    Format,
    class_names,
    converted_generator,
    load_weights,
    square_image,
)
from training.importers.options import Choices
from training.importers.reading.weights import Network

_SLOPE = 0.2
# The largest number of resolutions: images of 16,384 pixels.
_MAX_STAGES = 13


class _Convolution(nn.Module):
    def __init__(self, fan_in: int, fan_out: int, kernel: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.Layer = nn.Conv2d(
            fan_in, fan_out, kernel, padding=kernel // 2, groups=groups, bias=False
        )

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.Layer(x)
        return result


class _BiasedActivation(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.Bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x + self.Bias[:, None, None], _SLOPE)


class _Block(nn.Module):
    """1×1 to more channels, grouped convolution, 1×1 back, plus a skip."""

    def __init__(self, channels: int, inner: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.LinearLayer1 = _Convolution(channels, inner)
        self.LinearLayer2 = _Convolution(inner, inner, kernel, groups)
        self.LinearLayer3 = _Convolution(inner, channels)
        self.NonLinearity1 = _BiasedActivation(inner)
        self.NonLinearity2 = _BiasedActivation(inner)

    def forward(self, x: Tensor) -> Tensor:
        y = self.LinearLayer2(self.NonLinearity1(self.LinearLayer1(x)))
        residual: Tensor = self.LinearLayer3(self.NonLinearity2(y))
        return x + residual


class _Basis(nn.Module):
    """A learned 4×4 map for each channel, scaled by a linear function of the latent."""

    def __init__(self, z_dim: int, channels: int) -> None:
        super().__init__()
        self.Basis = nn.Parameter(torch.zeros(channels, 4, 4))
        self.LinearLayer = nn.Linear(z_dim, channels, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        strength: Tensor = self.LinearLayer(z)
        return self.Basis * strength[:, :, None, None]


class _Filter(nn.Module):
    """The filter of a change of resolution, ``[K, K]`` with the sum 1."""

    Kernel: Tensor

    def __init__(self, side: int) -> None:
        super().__init__()
        self.register_buffer("Kernel", torch.zeros(side, side))


class _Upsample(nn.Module):
    """Doubles the side with a filter; before it, changes the number of channels."""

    def __init__(self, fan_in: int, fan_out: int, side: int) -> None:
        super().__init__()
        self.LinearLayer = _Convolution(fan_in, fan_out) if fan_in != fan_out else None
        self.Resampler: _Filter = _Filter(side)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.LinearLayer is None else self.LinearLayer(x)
        kernel: Tensor = self.Resampler.Kernel
        channels, side = x.shape[1], kernel.shape[0]
        weight = (4 * kernel).expand(channels, 1, side, side)
        return F.conv_transpose2d(x, weight, stride=2, padding=side // 2 - 1, groups=channels)


class _Stage(nn.Module):
    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.Layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.Layers:
            x = layer(x)
        return x


class R3GanGenerator(nn.Module):
    """Maps ``z`` [N, Z], and class weights if there are classes, to images near [-1, 1]."""

    def __init__(self, stages: list[_Stage], channels: int, width: int, embedding: Tensor | None):
        super().__init__()
        self.MainLayers = nn.ModuleList(stages)
        self.AggregationLayer = _Convolution(width, channels)
        self.EmbeddingLayer = (
            None
            if embedding is None
            else nn.Linear(embedding.shape[1], embedding.shape[0], bias=False)
        )

    def forward(self, z: Tensor, class_weights: Tensor | None = None) -> Tensor:
        x = z
        if self.EmbeddingLayer is not None and class_weights is not None:
            x = torch.cat([z, self.EmbeddingLayer(class_weights)], 1)
        for stage in self.MainLayers:
            x = stage(x)
        images: Tensor = self.AggregationLayer(x)
        return images


class R3Gan(Format):
    """The network pickles of the authors, unconditional or class-conditional."""

    name = "r3gan"
    title = "R3GAN"
    origin = "R3GAN, Huang et al. 2024"
    required_keys = (
        r"MainLayers\.0\.Layers\.0\.Basis",
        r"MainLayers\.0\.Layers\.0\.LinearLayer\.weight",
        r"MainLayers\.0\.Layers\.1\.LinearLayer2\.Layer\.weight",
        r"MainLayers\.1\.Layers\.0\.Resampler\.Kernel",
        r"AggregationLayer\.Layer\.weight",
    )
    excluded_keys = (r"ExtractionLayer\..*",)
    published = "LeakyReLU(0.2), z from a normal distribution, images from -1 to 1"

    def convert(self, network: Network, options: Choices) -> ConvertedModel:
        """Build the network. Names and shapes determine resolutions, widths and groups."""
        shapes = network.tensors.shapes()
        count = 1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("MainLayers"))
        if count > _MAX_STAGES:
            raise FormatMismatchError(f"it has {count} resolutions; at most {_MAX_STAGES}")
        side = 4 * 2 ** (count - 1)
        channels = shapes["AggregationLayer.Layer.weight"][0]
        image = square_image(side, channels)
        stages = [_stage(shapes, i) for i in range(count)]
        embedding = network.tensors.get("EmbeddingLayer.weight")
        width = shapes["AggregationLayer.Layer.weight"][1]
        generator = load_weights(R3GanGenerator(stages, channels, width, embedding), network)
        inputs = shapes["MainLayers.0.Layers.0.LinearLayer.weight"][1]
        z_dim = inputs - (0 if embedding is None else embedding.shape[0])
        classes = () if embedding is None else class_names(embedding.shape[1], options)
        return converted_generator(
            "R3GAN generator",
            generator,
            z_dim,
            image,
            classes,
            details=[("resolutions", str(count))],
            notes=["bfloat16 layers run in float32"],
        )


def _stage(shapes: dict[str, tuple[int, ...]], index: int) -> _Stage:
    """Build a resolution: its first layer, and its blocks."""
    prefix = f"MainLayers.{index}.Layers"
    layers: list[nn.Module] = []
    if index == 0:
        width, inputs = shapes[f"{prefix}.0.LinearLayer.weight"]
        layers.append(_Basis(inputs, width))
    else:
        kernel = shapes[f"{prefix}.0.Resampler.Kernel"]
        if len(kernel) != 2 or kernel[0] != kernel[1] or kernel[0] % 2:
            raise FormatMismatchError(f"its filter is {kernel}; expected a square of an even side")
        width = shapes[f"{prefix}.1.LinearLayer1.Layer.weight"][1]
        fan_in = shapes.get(f"{prefix}.0.LinearLayer.Layer.weight", (0, width))[1]
        layers.append(_Upsample(fan_in, width, kernel[0]))
    numbers = {
        int(found[1])
        for name in shapes
        if (found := re.match(rf"{re.escape(prefix)}\.(\d+)\.LinearLayer1\.", name))
    }
    for number in sorted(numbers):
        inner, fan_in, kernel_side, _ = shapes[f"{prefix}.{number}.LinearLayer2.Layer.weight"]
        if not fan_in or inner % fan_in:
            raise FormatMismatchError(
                f"{prefix}.{number} has {inner} channels in groups of {fan_in}"
            )
        layers.append(_Block(width, inner, kernel_side, inner // fan_in))
    return _Stage(layers)
