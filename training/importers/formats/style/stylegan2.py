"""StyleGAN2 in its two most common layouts: NVIDIA's pickles and rosinality's checkpoints.

Both contain the network of Karras et al. 2019 (arXiv:1912.04958), so their weights are copied into
`training.networks.noise.stylegan2`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from training.importers.errors import FormatMismatchError
from training.importers.formats.base import (
    ConvertedModel,
    Format,
    class_names,
    square_image,
)
from training.importers.formats.layers import expect_filter
from training.importers.formats.style.style_mapping import (
    converted_style_generator,
    mapping_network,
    nvidia_mapping,
)
from training.importers.options import Choices
from training.importers.reading.weights import Network
from training.networks.layers.shapes import ImageShape
from training.networks.noise.style_generator import MAPPING_RATE, StyleGenerator
from training.networks.noise.stylegan2 import (
    ModulatedConv2d,
    StyledLayer,
    StyleGAN2Synthesis,
    ToImage,
)

_NOISE_SEED = 0
_PUBLISHED = (
    "LeakyReLU(0.2), the filter [1, 3, 3, 1], z from a normal distribution, images from -1 to 1"
)


@dataclass(frozen=True)
class _Layout:
    """The tensor names of a layer, relative to the layer's prefix."""

    weight: str
    style: str
    bias: str
    strength: str


_NVIDIA = _Layout("weight", "affine", "bias", "noise_strength")
_ROSINALITY = _Layout("conv.weight", "conv.modulation", "activate.bias", "noise.weight")
_NVIDIA_IMAGE = _Layout("weight", "affine", "bias", "")
_ROSINALITY_IMAGE = _Layout("conv.weight", "conv.modulation", "bias", "")


@torch.no_grad()
def _copy_convolution(
    conv: ModulatedConv2d, tensors: Mapping[str, Tensor], path: str, layout: _Layout, scale: float
) -> None:
    weight = tensors[f"{path}.{layout.weight}"].float()
    conv.weight.copy_(weight.reshape(conv.weight.shape) * scale)
    conv.style.weight.copy_(tensors[f"{path}.{layout.style}.weight"].float())
    conv.style.bias.copy_(tensors[f"{path}.{layout.style}.bias"].float())


@torch.no_grad()
def _copy_layer(
    layer: StyledLayer,
    tensors: Mapping[str, Tensor],
    path: str,
    layout: _Layout,
    noise: Tensor | None,
    scale: float = 1.0,
) -> None:
    _copy_convolution(layer.conv, tensors, path, layout, scale)
    layer.bias.copy_(tensors[f"{path}.{layout.bias}"].float().flatten())
    strength = tensors.get(f"{path}.{layout.strength}")
    layer.noise_strength.fill_(0.0 if strength is None else float(strength))
    if noise is None:
        rng = torch.Generator().manual_seed(_NOISE_SEED)
        noise = torch.randn(layer.noise.shape, generator=rng)
    layer.noise.copy_(noise.float().reshape(layer.noise.shape))


@torch.no_grad()
def _copy_to_image(
    to_image: ToImage, tensors: Mapping[str, Tensor], path: str, layout: _Layout
) -> None:
    _copy_convolution(to_image.conv, tensors, path, layout, 1.0)
    to_image.bias.copy_(tensors[f"{path}.{layout.bias}"].float().flatten())


class NvidiaStyleGan2(Format):
    """Network pickles written by stylegan2-ada-pytorch."""

    name = "stylegan2-ada"
    title = "StyleGAN2-ADA"
    origin = "NVIDIA's stylegan2-ada-pytorch (NVIDIA Source Code License, non-commercial)"
    required_keys = (
        r"mapping\.fc0\.weight",
        r"synthesis\.b4\.const",
        r"synthesis\.b4\.conv1\.affine\.weight",
        r"synthesis\.b4\.torgb\.weight",
        r"synthesis\.b8\.conv0\.weight",
    )
    excluded_keys = (r"synthesis\.b\d+\.skip\..*",)
    published = _PUBLISHED

    def convert(self, network: Network, options: Choices) -> ConvertedModel:
        """Build the network. Names and shapes determine resolutions and widths."""
        tensors = network.tensors
        expect_filter(tensors, r"synthesis\..*resample_filter", (1, 3, 3, 1))
        modules: Mapping[str, Mapping[str, Any]] = network.config.get("modules", {})
        sides = sorted(
            int(found.group(1))
            for name in tensors
            if (found := re.fullmatch(r"synthesis\.b(\d+)\.conv1\.weight", name))
        )
        if sides != [4 * 2**i for i in range(len(sides))] or len(sides) < 2:
            raise FormatMismatchError(
                f"its resolutions are {sides}; expected 4, 8, 16, … (at least two)"
            )
        for side in sides:
            if f"synthesis.b{side}.torgb.weight" not in tensors:
                raise FormatMismatchError(
                    f"it has no torgb layer at {side}×{side}; only the skip architecture is "
                    "supported"
                )
        return self._convert(tensors, modules, sides, options)

    def _convert(
        self,
        tensors: Mapping[str, Tensor],
        modules: Mapping[str, Mapping[str, Any]],
        sides: list[int],
        options: Choices,
    ) -> ConvertedModel:
        widths = [tensors[f"synthesis.b{side}.conv1.weight"].shape[0] for side in sides]
        channels = tensors["synthesis.b4.torgb.weight"].shape[0]
        shape = ImageShape(height=sides[-1], width=sides[-1], channels=channels)
        w_dim = tensors["synthesis.b4.conv1.affine.weight"].shape[1]
        square_image(shape.height, channels)
        synthesis = StyleGAN2Synthesis(shape, widths, w_dim)
        synthesis.constant.data.copy_(tensors["synthesis.b4.const"].float()[None])
        layers = [("b4.conv1", synthesis.first)]
        for i, side in enumerate(sides[1:]):
            layers.append((f"b{side}.conv0", synthesis.grow[i]))  # type: ignore[arg-type]
            layers.append((f"b{side}.conv1", synthesis.refine[i]))  # type: ignore[arg-type]
        for path, layer in layers:
            name = f"synthesis.{path}"
            # This layout does not scale the weights by their fan-in: demodulation cancels it.
            fan_in = tensors[f"{name}.weight"].shape[1]
            scale = math.sqrt(fan_in * 9)
            noise = tensors.get(f"{name}.noise_const")
            _copy_layer(layer, tensors, name, _NVIDIA, noise, scale)
        to_image_layers = [synthesis.first_image, *synthesis.to_image]
        for side, to_image in zip(sides, to_image_layers, strict=True):
            _copy_to_image(to_image, tensors, f"synthesis.b{side}.torgb", _NVIDIA_IMAGE)

        mapping, classes = nvidia_mapping(tensors, modules)
        names = class_names(classes, options) if classes else ()
        notes = [
            "The noise is the constant one of the file, so that an image depends on its latent "
            "alone."
        ]
        generator = StyleGenerator(mapping, synthesis, w_dim)
        average = tensors.get("mapping.w_avg")
        return converted_style_generator("StyleGAN2", generator, shape, average, names, notes=notes)


class RosinalityStyleGan2(Format):
    """The layout of rosinality's stylegan2-pytorch, common for fine-tuned weights."""

    name = "stylegan2-rosinality"
    title = "StyleGAN2 (rosinality)"
    origin = "rosinality/stylegan2-pytorch (MIT)"
    required_keys = (
        r"style\.1\.weight",
        r"input\.input",
        r"conv1\.conv\.modulation\.weight",
        r"to_rgb1\.conv\.weight",
        r"convs\.0\.conv\.weight",
        r"to_rgbs\.0\.conv\.weight",
    )
    published = _PUBLISHED

    def convert(self, network: Network, options: Choices) -> ConvertedModel:  # noqa: ARG002 - the tensors determine everything
        """Build the network."""
        expect_filter(network.tensors, r"(convs|to_rgbs)\..*\.kernel", (1, 3, 3, 1))
        return self._convert(network)

    def _convert(self, network: Network) -> ConvertedModel:
        tensors = network.tensors
        levels = sum(bool(re.fullmatch(r"to_rgbs\.\d+\.bias", name)) for name in tensors)
        widths = [tensors["conv1.conv.weight"].shape[1]]
        widths += [tensors[f"convs.{2 * i}.conv.weight"].shape[1] for i in range(levels)]
        channels = tensors["to_rgb1.bias"].numel()
        side = 4 * 2**levels
        shape = ImageShape(height=side, width=side, channels=channels)
        w_dim = tensors["conv1.conv.modulation.weight"].shape[1]
        square_image(shape.height, channels)
        synthesis = StyleGAN2Synthesis(shape, widths, w_dim)
        synthesis.constant.data.copy_(tensors["input.input"].float())
        layers = [("conv1", synthesis.first)]
        to_image_layers = [("to_rgb1", synthesis.first_image)]
        for i in range(levels):
            layers.append((f"convs.{2 * i}", synthesis.grow[i]))  # type: ignore[arg-type]
            layers.append((f"convs.{2 * i + 1}", synthesis.refine[i]))  # type: ignore[arg-type]
            to_image_layers.append((f"to_rgbs.{i}", synthesis.to_image[i]))  # type: ignore[arg-type]
        for i, (path, layer) in enumerate(layers):
            _copy_layer(layer, tensors, path, _ROSINALITY, tensors.get(f"noises.noise_{i}"))
        for path, to_image in to_image_layers:
            _copy_to_image(to_image, tensors, path, _ROSINALITY_IMAGE)
        numbers = sorted(
            int(found.group(1))
            for name in tensors
            if (found := re.fullmatch(r"style\.(\d+)\.weight", name))
        )
        fully_connected = [
            (tensors[f"style.{number}.weight"], tensors[f"style.{number}.bias"])
            for number in numbers
        ]
        generator = StyleGenerator(
            mapping_network(fully_connected, MAPPING_RATE, None), synthesis, w_dim
        )
        average = network.config.get("siblings", {}).get("latent_avg")
        notes = []
        if average is None:
            notes.append("The average w is not in the file; it was estimated from 10,000 latents.")
        if "noises.noise_0" not in tensors:
            notes.append("The file has no noise; noise with a fixed seed is used.")
        return converted_style_generator("StyleGAN2", generator, shape, average, notes=notes)
