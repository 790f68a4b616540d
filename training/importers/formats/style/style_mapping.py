"""Functions shared by the StyleGAN formats: mapping networks and converted models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from service.runtime.models.parts.latent import LatentSpace, Truncation
from training.export.graphs import generator_graph_specs, style_space
from training.importers.formats.base import ConvertedModel, square_image
from training.networks.layers.conditioning import Conditioning
from training.networks.layers.shapes import ImageShape
from training.networks.noise.style_generator import MAPPING_RATE, MappingNetwork, StyleGenerator


@torch.no_grad()
def mapping_network(
    fully_connected: Sequence[tuple[Tensor, Tensor]], rate: float, classes: Tensor | None
) -> MappingNetwork:
    """Return a mapping network with the given weights and biases of its linear layers.

    `rate` is the learning-rate multiplier that the layers were trained with. `classes` is the class
    embedding ``[classes, W]``, or None.
    """
    first = fully_connected[0][0]
    embedded = 0 if classes is None else classes.shape[1]
    z_dim, w_dim = first.shape[1] - embedded, fully_connected[-1][0].shape[0]
    conditioning = Conditioning.of(0 if classes is None else classes.shape[0], max(embedded, 1))
    mapping = MappingNetwork(z_dim, w_dim, len(fully_connected), conditioning)
    for layer, (weight, bias) in zip(mapping.layers, fully_connected, strict=True):
        # The module applies its own multiplier, so the weights are scaled to compensate.
        layer.weight.copy_(weight.float() * (rate / MAPPING_RATE))  # type: ignore[operator]
        layer.bias.copy_(bias.float() * (rate / MAPPING_RATE))  # type: ignore[operator]
    if classes is not None:
        assert mapping.label.embed is not None  # noqa: S101 - for the type checker
        mapping.label.embed.weight.copy_(classes)
    return mapping


def nvidia_mapping(
    tensors: Mapping[str, Tensor], modules: Mapping[str, Mapping[str, Any]]
) -> tuple[MappingNetwork, int]:
    """Return the mapping network of NVIDIA's formats, and its number of classes."""
    fully_connected: list[tuple[Tensor, Tensor]] = []
    while (name := f"mapping.fc{len(fully_connected)}") + ".weight" in tensors:
        fully_connected.append((tensors[f"{name}.weight"], tensors[f"{name}.bias"]))
    classes = None
    if "mapping.embed.weight" in tensors:
        weight = tensors["mapping.embed.weight"].float()
        classes = weight.t() / math.sqrt(weight.shape[1]) + tensors["mapping.embed.bias"].float()
    rate = float(modules.get("mapping.fc0", {}).get("bias_gain", MAPPING_RATE))
    return mapping_network(fully_connected, rate, classes), 0 if classes is None else len(classes)


def converted_style_generator(
    summary: str,
    generator: StyleGenerator,
    shape: ImageShape,
    average: Tensor | None,
    names: tuple[str, ...] = (),
    details: Sequence[tuple[str, str]] = (),
    notes: Sequence[str] = (),
) -> ConvertedModel:
    """Return the converted model of a generator with styles. Raises FormatMismatchError.

    `average` is the mean of w, ``[w_dim]``, which is the center of truncation. If it is None, it is
    estimated.
    """
    side = shape.height
    # Few rows, because a large image takes seconds and is generated twice for every batch size.
    rows = 8 if side <= 128 else 2
    center = None
    if average is not None:
        # All classes share one average, as in the authors' code.
        center = average.float().reshape(1, -1).repeat(max(len(names), 1), 1)
    z_dim = _z_dim(generator)
    graph_specs = generator_graph_specs(
        generator.eval(), z_dim, len(names), rows=rows, center=center
    )
    return ConvertedModel(
        summary=summary,
        task="generate",
        graph_specs=graph_specs,
        image=square_image(side, shape.channels),
        details=[
            ("z", str(z_dim)),
            ("w", str(generator.w_dim)),
            ("styles", str(generator.layers)),
            ("images", f"{side}×{side}×{shape.channels}"),
            *([("classes", str(len(names)))] if names else []),
            *details,
        ],
        notes=notes,
        latent=LatentSpace(dimension=z_dim, truncation=Truncation()),
        classes=names,
        styles=style_space(generator),
    )


def _z_dim(generator: StyleGenerator) -> int:
    mapping = generator.mapping
    assert isinstance(mapping, MappingNetwork)  # noqa: S101 - for the type checker
    embed = mapping.label.embed
    width: int = mapping.layers[0].weight.shape[1]  # type: ignore[index,assignment]
    return width - (embed.embedding_dim if embed is not None else 0)
