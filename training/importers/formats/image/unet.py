"""The U-Net of pix2pix.

Its authors sample with the batch statistics of single images, which is equal to instance
normalization (Isola et al. 2017, arXiv:1611.07004, section 3.3). This is the default, and keeps the
rows of a batch independent. ``--statistics running`` uses the running averages from training.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from service.runtime.models.parts.inputs import ImageInput
from training.importers.errors import FormatMismatchError
from training.importers.formats.activations import output_activation, slope
from training.importers.formats.base import (
    ConvertedModel,
    Format,
    converted_image_to_image,
    input_channels,
    input_side,
)
from training.importers.formats.image.normalization import UNUSED_STATISTICS, Normalizations
from training.importers.formats.layers import load_layer
from training.importers.options import Choices
from training.importers.reading.weights import Layer, Network, known_layers


class ConvertedUNet(nn.Module):
    """Maps images ``[N, C, H, W]`` to images of the same size, in [-1, 1].

    Sides must be multiples of ``2**levels``, where ``levels = len(down)``.
    """

    def __init__(self, down: list[nn.Module], up: list[nn.Module]) -> None:
        super().__init__()
        self.down, self.up = nn.ModuleList(down), nn.ModuleList(up)

    def forward(self, images: Tensor) -> Tensor:
        features = [images]
        for down in self.down:
            features.append(down(features[-1]))
        x: Tensor = self.up[0](features[-1])
        for up, skip in zip(self.up[1:], reversed(features[1:-1]), strict=True):
            x = up(torch.cat([skip, x], 1))
        return x


class Pix2PixUNet(Format):
    """pix2pix's U-Net: ``unet_128``, ``unet_256`` and other depths."""

    name = "pix2pix-unet"
    title = "pix2pix's U-Net"
    origin = "pytorch-CycleGAN-and-pix2pix (BSD-2), Isola et al. 2017"
    required_keys = (r"(.+\.)?model\.0\.weight", r"(.+\.)?model\.1\.model\.\d+\.weight")
    published = "ReLU in the decoder, zero padding"
    unneeded: ClassVar[Mapping[str, str]] = UNUSED_STATISTICS

    def convert(self, network: Network, options: Choices) -> ConvertedModel:
        """Build the network. The first half of the convolutions is the encoder."""
        layers = known_layers(network)
        convolutions = [layer for layer in layers if layer.kind == "convolution"]
        levels = len(convolutions) // 2
        if levels < 2 or len(convolutions) % 2:
            raise FormatMismatchError("its encoder and decoder have different depths")
        if any(tuple(layer.weight.shape[2:]) != (4, 4) for layer in convolutions):
            raise FormatMismatchError("expected 4×4 kernels in all convolutions")
        norms = _norms_after(layers)
        builder = Normalizations(
            options,
            [norms[layer.path] for layer in convolutions[1:-1]],
            default="picture",
            # Instance normalization has no tensors, but the convolutions before it have biases.
            without_tensors="instance" if convolutions[1].has_bias else "none",
        )
        # The outermost convolutions and the innermost one have no normalization.
        outside = (convolutions[0].path, convolutions[levels - 1].path, convolutions[-1].path)
        inner_slope = slope(options)
        down: list[nn.Module] = []
        width = convolutions[0].weight.shape[1]
        for i, layer in enumerate(convolutions[:levels]):
            fan_in, width = width, layer.weight.shape[0]
            conv = nn.Conv2d(fan_in, width, 4, 2, 1, bias=layer.has_bias)
            block: list[nn.Module] = [] if i == 0 else [nn.LeakyReLU(inner_slope)]
            block.append(load_layer(conv, layer))
            if norms[layer.path] is not None or layer.path not in outside:
                block += builder.build(norms[layer.path], width)
            down.append(nn.Sequential(*block))
        up: list[nn.Module] = []
        output, output_range = output_activation(options)
        for layer in convolutions[levels:]:
            fan_in, width = layer.weight.shape[:2]
            transposed = nn.ConvTranspose2d(fan_in, width, 4, 2, 1, bias=layer.has_bias)
            after = output
            if layer is not convolutions[-1]:
                after = builder.build(norms[layer.path], width)
            elif norms[layer.path] is not None:
                raise FormatMismatchError(f"its last convolution {layer.path} has a normalization")
            up.append(nn.Sequential(nn.ReLU(), load_layer(transposed, layer), *after))
        channels, out_channels = convolutions[0].weight.shape[1], width
        multiple = 2**levels
        image_input = ImageInput(
            channels=input_channels(channels),
            side=input_side(options, multiple, multiple),
            multiple=multiple,
            reach=3 * multiple if builder.is_local else None,
        )
        used = "running averages" if builder.statistics == "running" else "of each image"
        return converted_image_to_image(
            "pix2pix's U-Net",
            "translate",
            ConvertedUNet(down, up),
            image_input,
            out_channels,
            output_range=output_range,
            options=options,
            details=[("levels", str(levels)), ("statistics", used)],
            notes=["Dropout is off; its authors leave it on while sampling."],
        )


def _norms_after(layers: list[Layer]) -> dict[str, Layer | None]:
    """Return the normalization after each convolution, by the convolution's path.

    Raises FormatMismatchError.
    """
    norms: dict[str, Layer | None] = {}
    convolution: Layer | None = None
    for layer in layers:
        if layer.kind == "convolution":
            convolution = layer
            norms[layer.path] = None
        elif layer.kind in ("norm", "statistics") and convolution is not None:
            norms[convolution.path] = layer
            convolution = None
        else:
            raise FormatMismatchError(f"unexpected layer {layer.path} in a U-Net")
    return norms
