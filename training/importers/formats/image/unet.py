"""The U-Net of pix2pix: as many halvings as doublings, each joined to its mirror.

Its authors sample with the statistics of the batch, which is one picture: normalisation of each
picture (Isola et al. 2017, arXiv:1611.07004, section 3.3). That keeps the rows of a batch apart, so
it is what is exported, unless ``--statistics running`` asks for the averages of the training.
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
    input_side,
)
from training.importers.formats.noise.sequential import load_layer
from training.importers.reading.weights import Layer, Network, known_layers


class UNet(nn.Module):
    """Pictures ``[N, C, H, W]`` in [-1, 1] to pictures, for sides in steps of ``2**levels``."""

    def __init__(self, down: list[nn.Module], up: list[nn.Module]) -> None:
        super().__init__()
        self.down, self.up = nn.ModuleList(down), nn.ModuleList(up)

    def forward(self, images: Tensor) -> Tensor:
        seen = [images]
        for down in self.down:
            seen.append(down(seen[-1]))
        x: Tensor = self.up[0](seen[-1])
        for up, joined in zip(self.up[1:], reversed(seen[1:-1]), strict=True):
            x = up(torch.cat([joined, x], 1))
        return x


class UNetTranslator(Format):
    """pix2pix's U-Net, ``unet_128``, ``unet_256`` and others."""

    name = "pix2pix-unet"
    title = "pix2pix's U-Net"
    origin = "pytorch-CycleGAN-and-pix2pix (BSD-2), Isola et al. 2017"
    required_keys = (r"(.+\.)?model\.0\.weight", r"(.+\.)?model\.1\.model\.\d+\.weight")

    def convert(self, network: Network, options: UserOptions) -> ConvertedModel:
        """Build the network; which way a convolution goes is told by its depth in the names."""
        found = known_layers(network)
        convolutions = [layer for layer in found if layer.kind == "convolution"]
        levels = len(convolutions) // 2
        if levels < 2 or len(convolutions) % 2:
            raise FormatMismatchError("its convolutions are not as many halvings as doublings")
        if any(tuple(layer.weight.shape[2:]) != (4, 4) for layer in convolutions):
            raise FormatMismatchError("its convolutions are not 4×4")
        norms = _norms_after(found)
        # Instance normalisation has no tensors, but leaves the convolutions their biases.
        instance = all(norm is None for norm in norms.values()) and convolutions[1].bias is not None
        statistics = options.statistics or "picture"
        if statistics not in ("picture", "running"):
            raise ImportOptionError(f"--statistics {statistics}: it is picture or running")
        down: list[nn.Module] = []
        width = convolutions[0].weight.shape[1]
        for i, layer in enumerate(convolutions[:levels]):
            fan_in, width = width, layer.weight.shape[0]
            built = nn.Conv2d(fan_in, width, 4, 2, 1, bias=layer.bias is not None)
            steps: list[nn.Module] = [] if i == 0 else [nn.LeakyReLU(0.2)]
            steps.append(load_layer(built, layer))
            if instance and 0 < i < levels - 1:
                steps.append(nn.InstanceNorm2d(width))
            else:
                steps += _norm(norms[layer.path], width, statistics)
            down.append(nn.Sequential(*steps))
        up: list[nn.Module] = []
        for i, layer in enumerate(convolutions[levels:]):
            fan_in, width = layer.weight.shape[:2]
            rising = nn.ConvTranspose2d(fan_in, width, 4, 2, 1, bias=layer.bias is not None)
            last = i == levels - 1
            after: list[nn.Module] = (
                [nn.Tanh()] if last else _norm(norms[layer.path], width, statistics)
            )
            if instance and not last:
                after.append(nn.InstanceNorm2d(width))
            up.append(nn.Sequential(nn.ReLU(), load_layer(rising, layer), *after))
        channels, made = convolutions[0].weight.shape[1], width
        if channels not in (1, 3, 4):
            raise FormatMismatchError(f"it takes {channels} channels")
        batch = any(norm is not None and "weight" in norm.tensors for norm in norms.values())
        running = batch and statistics == "running"
        multiple = 2**levels
        given = ImageInput(
            channels=channels,
            side=input_side(options, multiple, multiple),
            multiple=multiple,
            reach=3 * multiple if running else None,
        )
        kept = "averages of the training" if running else "of each picture, as its authors sample"
        return converted_image_to_image(
            "pix2pix's U-Net",
            "translate",
            UNet(down, up),
            given,
            made,
            details=[("halvings", str(levels)), ("statistics", kept)],
            notes=["Dropout, which its authors leave on while they sample, is off."],
        )


def _norms_after(found: list[Layer]) -> dict[str, Layer | None]:
    norms: dict[str, Layer | None] = {}
    before: Layer | None = None
    for layer in found:
        if layer.kind == "convolution":
            before = layer
            norms[layer.path] = None
        elif layer.kind in ("norm", "statistics") and before is not None:
            norms[before.path] = layer
            before = None
        else:
            raise FormatMismatchError(f"{layer.path} is no layer of a U-Net")
    return norms


def _norm(layer: Layer | None, width: int, statistics: str) -> list[nn.Module]:
    """Return a normalisation; the outermost layers and the innermost halving have none."""
    if layer is None or "weight" not in layer.tensors:
        return [] if layer is None else [nn.InstanceNorm2d(width)]
    if statistics == "running" and "running_mean" in layer.tensors:
        return [load_layer(nn.BatchNorm2d(width), layer)]
    kept = {name: layer.tensors[name] for name in ("weight", "bias")}
    return [load_layer(nn.InstanceNorm2d(width, affine=True), Layer(layer.path, kept))]
