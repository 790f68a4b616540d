"""The U-Net of pix2pix.

Its authors sample with the batch statistics of single images, which is equal to instance
normalization (Isola et al. 2017, arXiv:1611.07004, section 3.3). This is the default, and keeps the
rows of a batch independent. ``--statistics running`` uses the running averages from training.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from service.runtime.models.manifest import ImageInput
from training.importers.errors import FormatMismatchError, ImportOptionError
from training.importers.formats.base import (
    ConvertedModel,
    Format,
    UserOptions,
    converted_image_to_image,
    input_channels,
    input_side,
)
from training.importers.formats.layers import load_layer
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

    def convert(self, network: Network, options: UserOptions) -> ConvertedModel:
        """Build the network. The first half of the convolutions is the encoder."""
        layers = known_layers(network)
        convolutions = [layer for layer in layers if layer.kind == "convolution"]
        levels = len(convolutions) // 2
        if levels < 2 or len(convolutions) % 2:
            raise FormatMismatchError("its encoder and decoder have different depths")
        if any(tuple(layer.weight.shape[2:]) != (4, 4) for layer in convolutions):
            raise FormatMismatchError("expected 4×4 kernels in all convolutions")
        norms = _norms_after(layers)
        # Instance normalization has no tensors, but the convolutions before it have biases.
        instance = all(norm is None for norm in norms.values()) and convolutions[1].bias is not None
        statistics = options.statistics or "picture"
        if statistics not in ("picture", "running"):
            raise ImportOptionError(f"--statistics {statistics}: expected picture or running")
        down: list[nn.Module] = []
        width = convolutions[0].weight.shape[1]
        for i, layer in enumerate(convolutions[:levels]):
            fan_in, width = width, layer.weight.shape[0]
            conv = nn.Conv2d(fan_in, width, 4, 2, 1, bias=layer.bias is not None)
            block: list[nn.Module] = [] if i == 0 else [nn.LeakyReLU(0.2)]
            block.append(load_layer(conv, layer))
            if instance and 0 < i < levels - 1:
                block.append(nn.InstanceNorm2d(width))
            else:
                block += _norm(norms[layer.path], width, statistics)
            down.append(nn.Sequential(*block))
        up: list[nn.Module] = []
        for i, layer in enumerate(convolutions[levels:]):
            fan_in, width = layer.weight.shape[:2]
            transposed = nn.ConvTranspose2d(fan_in, width, 4, 2, 1, bias=layer.bias is not None)
            last = i == levels - 1
            after: list[nn.Module] = (
                [nn.Tanh()] if last else _norm(norms[layer.path], width, statistics)
            )
            if instance and not last:
                after.append(nn.InstanceNorm2d(width))
            up.append(nn.Sequential(nn.ReLU(), load_layer(transposed, layer), *after))
        channels, out_channels = convolutions[0].weight.shape[1], width
        batch = any(norm is not None and "weight" in norm.tensors for norm in norms.values())
        running = batch and statistics == "running"
        multiple = 2**levels
        image_input = ImageInput(
            channels=input_channels(channels),
            side=input_side(options, multiple, multiple),
            multiple=multiple,
            reach=3 * multiple if running else None,
        )
        used = "running averages" if running else "of each image, as its authors sample"
        return converted_image_to_image(
            "pix2pix's U-Net",
            "translate",
            ConvertedUNet(down, up),
            image_input,
            out_channels,
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


def _norm(layer: Layer | None, width: int, statistics: str) -> list[nn.Module]:
    """Build the normalization layers of a convolution; empty if it has no normalization."""
    if layer is None or "weight" not in layer.tensors:
        return [] if layer is None else [nn.InstanceNorm2d(width)]
    if statistics == "running" and "running_mean" in layer.tensors:
        return [load_layer(nn.BatchNorm2d(width), layer)]
    affine = {name: layer.tensors[name] for name in ("weight", "bias")}
    return [load_layer(nn.InstanceNorm2d(width, affine=True), Layer(layer.path, affine))]
