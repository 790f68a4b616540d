"""Fast-SRGAN: a small SRGAN without batch normalization in the file.

Residual blocks and sub-pixel convolutions, as in Ledig et al. 2016, arXiv:1609.04802. Its versions
normalize with the statistics of each image, which has no tensors, with batch normalization, or not.
"""

from __future__ import annotations

import re

from torch import Tensor, nn

from service.runtime.models.parts.inputs import ImageInput
from training.importers.formats.activations import output_activation
from training.importers.formats.base import (
    ConvertedModel,
    Format,
    converted_image_to_image,
    input_channels,
    input_side,
)
from training.importers.formats.image.normalization import Normalizations
from training.importers.formats.image.residual import Residual
from training.importers.formats.layers import load_layer
from training.importers.options import Choices
from training.importers.reading.weights import Layer, Network, layers


class FastSrganGenerator(nn.Module):
    """Maps images ``[N, C, h, w]`` to ``[N, C, factor·h, factor·w]``."""

    def __init__(self, neck: nn.Module, trunk: nn.Module, tail: nn.Module) -> None:
        super().__init__()
        self.neck, self.trunk, self.tail = neck, trunk, tail

    def forward(self, images: Tensor) -> Tensor:
        features = self.neck(images)
        outputs: Tensor = self.tail(self.trunk(features) + features)
        return outputs


class FastSrgan(Format):
    """The layout with the parts ``neck``, ``stem``, ``bottleneck``, ``upsampling`` and ``head``."""

    name = "fast-srgan"
    title = "Fast-SRGAN"
    origin = "HasnainRaz/Fast-SRGAN (MIT)"
    required_keys = (
        r"neck\.0\.weight",
        r"stem\.0\.conv1\.weight",
        r"stem\.0\.conv2\.weight",
        r"bottleneck\.0\.weight",
        r"upsampling\.0\.conv\.weight",
        r"head\.0\.weight",
    )
    published = "zero padding, PReLU, sub-pixel convolutions that double the side"

    def convert(self, network: Network, options: Choices) -> ConvertedModel:
        """Build the network. The names determine the numbers of blocks and of doublings."""
        by_path = {layer.path: layer for layer in layers(network)}
        blocks = _count(network, r"stem\.(\d+)\.conv1\.weight")
        doublings = _count(network, r"upsampling\.(\d+)\.conv\.weight")
        names = [f"stem.{i}.bn{j}" for i in range(blocks) for j in (1, 2)] + ["bottleneck.1"]
        # A normalization follows convolutions without biases.
        bare = not by_path["stem.0.conv1"].has_bias
        norms = Normalizations(
            options,
            [by_path.get(name) for name in names],
            default="running",
            without_tensors="instance" if bare else "none",
        )

        def convolution(path: str, norm: str | None = None) -> list[nn.Module]:
            layer = by_path[path]
            width, fan_in, size, _ = layer.weight.shape
            conv = nn.Conv2d(fan_in, width, size, padding=size // 2, bias=layer.has_bias)
            after = norms.build(by_path.get(norm), width) if norm else []
            return [load_layer(conv, layer), *after]

        trunk: list[nn.Module] = []
        for i in range(blocks):
            path = f"stem.{i}"
            branch = convolution(f"{path}.conv1", f"{path}.bn1")
            branch += [_prelu(by_path[f"{path}.relu1"])]
            branch += convolution(f"{path}.conv2", f"{path}.bn2")
            trunk.append(Residual(nn.Sequential(*branch)))
        trunk += convolution("bottleneck.0", "bottleneck.1")
        tail: list[nn.Module] = []
        for i in range(doublings):
            tail += [*convolution(f"upsampling.{i}.conv"), nn.PixelShuffle(2)]
            tail.append(_prelu(by_path[f"upsampling.{i}.relu"]))
        output, output_range = output_activation(options)
        tail += [*convolution("head.0"), *output]
        neck = nn.Sequential(*convolution("neck.0"), _prelu(by_path["neck.1"]))
        channels = by_path["neck.0"].weight.shape[1]
        out_channels = by_path["head.0"].weight.shape[0]
        image_input = ImageInput(
            channels=input_channels(channels),
            side=input_side(options, 64),
            factor=2**doublings,
            # The statistics of an image need more than one pixel.
            least=None if norms.is_local else 2,
            reach=2 * blocks + 2 * doublings + 12 if norms.is_local else None,
        )
        return converted_image_to_image(
            f"Fast-SRGAN: ×{2**doublings} upscaling",
            "upscale",
            FastSrganGenerator(neck, nn.Sequential(*trunk), nn.Sequential(*tail)),
            image_input,
            out_channels,
            output_range=output_range,
            options=options,
            details=[("factor", str(2**doublings)), ("blocks", str(blocks))],
        )


def _count(network: Network, name: str) -> int:
    return len({m.group(1) for each in network.tensors if (m := re.fullmatch(name, each))})


def _prelu(layer: Layer) -> nn.Module:
    return load_layer(nn.PReLU(layer.weight.numel()), layer)
