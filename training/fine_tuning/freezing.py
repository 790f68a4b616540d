"""Freezes the layers of a discriminator that are nearest to the image.

Freeze-D: Mo et al. 2020, arXiv:2002.10964. These layers extract generic features, and changing
them on few images overfits.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import singledispatch

from torch import nn

from training.networks.layers.conditioning import LabelEmbedding
from training.networks.noise.r3gan import R3GANDiscriminator
from training.networks.pretrained.projected import ProjectedDiscriminator

# A layer: modules that are frozen together, such as a convolution and its normalization.
Layer = list[nn.Module]


def freeze_lowest(discriminator: nn.Module, count: int) -> None:
    """Freeze the `count` layers of a discriminator that are nearest to the image, in place.

    Embeddings of classes are not frozen. Raises ValueError if no layer would be left to train.
    """
    layers = layers_from_image(discriminator)
    if count >= len(layers) and count:
        raise ValueError(
            f"fine_tune.freeze_discriminator is {count}, but the discriminator has {len(layers)} "
            f"layers, and at least one must be trained"
        )
    for layer in layers[:count]:
        for module in layer:
            module.requires_grad_(False)


@singledispatch
def layers_from_image(discriminator: nn.Module) -> list[Layer]:
    """Return the layers with weights, in the order in which an image passes through them.

    A layer is a child of the network, or of its containers: a convolution, a linear layer or a
    whole block.
    """
    return _layers(list(discriminator.children()))


@layers_from_image.register
def _layers_of_r3gan(discriminator: R3GANDiscriminator) -> list[Layer]:
    first, *rest = discriminator.stages
    modules = [discriminator.from_image, first]
    for widen, stage in zip(discriminator.widen, rest, strict=True):
        modules += [widen, stage]
    return _layers([*modules, discriminator.basis, discriminator.judge])


@layers_from_image.register
def _layers_of_projected(discriminator: ProjectedDiscriminator) -> list[Layer]:
    # The features are frozen anyway. The discriminators of fine features are nearest to the image.
    return [
        [judge.get_submodule("layers"), judge.get_submodule("judge")]
        for judge in discriminator.judges
    ]


def _layers(modules: list[nn.Module]) -> list[Layer]:
    layers: list[Layer] = []
    for module in _without_containers(modules):
        weights = list(module.parameters())
        if not weights or isinstance(module, LabelEmbedding):
            continue
        # A normalization has only vectors. It belongs to the layer before it.
        if layers and all(weight.dim() < 2 for weight in weights):
            layers[-1].append(module)
        else:
            layers.append([module])
    return layers


def _without_containers(modules: list[nn.Module]) -> Iterator[nn.Module]:
    for module in modules:
        if isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict):
            yield from _without_containers(list(module.children()))
        else:
            yield module
