"""The multilayer perceptrons of the original GAN (Goodfellow et al. 2014, arXiv:1406.2661).

With classes, they are the networks of the conditional GAN (Mirza and Osindero 2014,
arXiv:1411.1784): the label embedding is concatenated to the noise and to the flattened image.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from training.networks.layers.conditioning import UNCONDITIONAL, Conditioning, LabelConcat
from training.networks.layers.shapes import ImageShape
from training.networks.options import ImageDiscriminatorOptions, NoiseGeneratorOptions


class MLPGenerator(nn.Module):
    """Maps latents ``[N, z_dim]`` and classes ``[N]`` to images ``[N, C, H, W]`` in [-1, 1]."""

    def __init__(
        self,
        z_dim: int,
        shape: ImageShape,
        widths: tuple[int, ...],
        conditioning: Conditioning = UNCONDITIONAL,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.join = LabelConcat(conditioning)
        z_dim += conditioning.width
        layers: list[nn.Module] = []
        for fan_in, fan_out in zip((z_dim, *widths), widths, strict=False):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU(inplace=True)]
        layers += [nn.Linear((z_dim, *widths)[-1], shape.numel), nn.Tanh()]
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor, class_index: Tensor | None = None) -> Tensor:
        pixels: Tensor = self.layers(self.join(z, class_index))
        return pixels.reshape(-1, self.shape.channels, self.shape.height, self.shape.width)


class Maxout(nn.Module):
    """Returns the maximum of `pieces` affine maps (Goodfellow et al. 2013, arXiv:1302.4389)."""

    def __init__(self, fan_in: int, fan_out: int, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces
        self.linear = nn.Linear(fan_in, fan_out * pieces)

    def forward(self, x: Tensor) -> Tensor:
        pieces: Tensor = self.linear(x).unflatten(-1, (-1, self.pieces))
        return pieces.amax(-1)


class MLPDiscriminator(nn.Module):
    """Maps images ``[N, C, H, W]`` and classes ``[N]`` to logits ``[N]``: positive means real."""

    def __init__(
        self,
        shape: ImageShape,
        widths: tuple[int, ...],
        maxout_pieces: int,
        dropout: float,
        conditioning: Conditioning = UNCONDITIONAL,
    ) -> None:
        super().__init__()
        self.join = LabelConcat(conditioning)
        values = shape.numel + conditioning.width
        layers: list[nn.Module] = []
        for fan_in, fan_out in zip((values, *widths), widths, strict=False):
            if maxout_pieces > 1:
                layers.append(Maxout(fan_in, fan_out, maxout_pieces))
            else:
                layers += [nn.Linear(fan_in, fan_out), nn.LeakyReLU(0.2, inplace=True)]
            if dropout:
                layers.append(nn.Dropout(dropout))
        layers.append(nn.Linear((values, *widths)[-1], 1))
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor, class_index: Tensor | None = None) -> Tensor:
        logits: Tensor = self.layers(self.join(torch.flatten(images, 1), class_index))
        return logits.squeeze(-1)


class MLPGeneratorOptions(NoiseGeneratorOptions):
    """A generator of fully connected layers."""

    network: Literal["mlp"]
    z_dim: PositiveInt = 100
    widths: tuple[PositiveInt, ...] = (1200, 1200)
    # Width of the class embedding of a conditional generator.
    class_width: PositiveInt = 32

    def build(self, shape: ImageShape, classes: int = 0) -> MLPGenerator:
        """Build the network, initialized from the global random state."""
        return MLPGenerator(
            self.z_dim, shape, self.widths, Conditioning.of(classes, self.class_width)
        )


class MLPDiscriminatorOptions(ImageDiscriminatorOptions):
    """A discriminator of fully connected layers."""

    network: Literal["mlp"]
    widths: tuple[PositiveInt, ...] = (240, 240)
    # The paper's discriminator has maxout layers; 1 selects LeakyReLU instead.
    maxout_pieces: PositiveInt = 5
    dropout: float = Field(default=0.0, ge=0, lt=1)
    class_width: PositiveInt = 32

    def build(self, shape: ImageShape, classes: int = 0) -> MLPDiscriminator:
        """Build the network, initialized from the global random state."""
        return MLPDiscriminator(
            shape,
            self.widths,
            self.maxout_pieces,
            self.dropout,
            Conditioning.of(classes, self.class_width),
        )
