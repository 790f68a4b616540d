"""The mapping network from z to w, and the generator class of all StyleGANs."""

from __future__ import annotations

import math
from abc import abstractmethod
from itertools import pairwise
from typing import ClassVar, NamedTuple

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from training.networks.layers.conditioning import Conditioning, LabelEmbedding, normalized
from training.networks.layers.equalized import EqualizedLinear, leaky_relu
from training.networks.layers.growth import Growth
from training.networks.layers.shapes import ImageShape
from training.networks.options import ImageDiscriminatorOptions, NoiseGeneratorOptions
from training.recipe.options import Options

# Side of the learned constant input, in pixels.
BASE = 4
# Learning rate multiplier of the mapping network (arXiv:1812.04948, appendix C).
MAPPING_RATE = 0.01


class StyleMix(NamedTuple):
    """Second latents `z` ``[N, z_dim]``, for style mixing from layer `crossover` ``[N]``.

    Layer `crossover` and all later layers use the styles of the second latents. Style mixing
    regularization (Karras et al. 2018, arXiv:1812.04948, section 3.1) decorrelates adjacent styles.
    A crossover equal to the number of layers disables mixing for that row.
    """

    z: Tensor
    crossover: Tensor


class MappingNetwork(nn.Module):
    """Maps latents ``[N, z_dim]`` and classes ``[N]`` to styles ``w`` ``[N, w_dim]``."""

    def __init__(self, z_dim: int, w_dim: int, layers: int, conditioning: Conditioning) -> None:
        super().__init__()
        self.label = LabelEmbedding(conditioning)
        widths = [z_dim + conditioning.width] + [w_dim] * layers
        self.layers = nn.ModuleList(
            EqualizedLinear(a, b, rate=MAPPING_RATE) for a, b in pairwise(widths)
        )

    def forward(self, z: Tensor, class_index: Tensor | None = None) -> Tensor:
        w = normalized(z)
        if (label := self.label.lookup(class_index)) is not None:
            w = torch.cat([w, normalized(label)], dim=1)
        for layer in self.layers:
            w = leaky_relu(layer(w))
        return w


class StyleGenerator(nn.Module):
    """Maps latents ``[N, z_dim]`` and classes ``[N]`` to images ``[N, C, H, W]``, near [-1, 1].

    `mapping` maps latents and classes to w ``[N, w_dim]``; `synthesis` maps styles
    ``[N, layers, w_dim]`` to images and has the attribute `layer_resolutions`.
    """

    def __init__(self, mapping: nn.Module, synthesis: nn.Module, w_dim: int) -> None:
        super().__init__()
        self.mapping = mapping
        self.synthesis = synthesis
        self.w_dim = w_dim

    @property
    def takes_transform(self) -> bool:
        """True if the synthesis network takes a geometric transform, as in StyleGAN3."""
        return bool(getattr(self.synthesis, "takes_transform", False))

    @property
    def layers(self) -> int:
        """Number of styles that the synthesis network takes."""
        return len(self.layer_resolutions)

    @property
    def layer_resolutions(self) -> list[int]:
        """Resolution of each layer, as a side in pixels."""
        resolutions: list[int] = self.synthesis.layer_resolutions  # type: ignore[assignment]
        return resolutions

    def layers_at(self, growth: Growth | None) -> int:
        """Return the number of layers that are active at `growth`, at least 2."""
        if growth is None:
            return self.layers
        return max(sum(side <= growth.side for side in self.layer_resolutions), 2)

    def styles(
        self, z: Tensor, class_index: Tensor | None = None, mix: StyleMix | None = None
    ) -> Tensor:
        """Return w ``[N, layers, w_dim]``: the same style in every layer unless `mix` is given."""
        w: Tensor = self.mapping(z, class_index)[:, None].expand(-1, self.layers, -1)
        if mix is None:
            return w
        other = self.mapping(mix.z, class_index)[:, None]
        layer = torch.arange(self.layers, device=z.device)
        return torch.where((layer < mix.crossover[:, None])[:, :, None], w, other)

    def forward(
        self,
        z: Tensor,
        class_index: Tensor | None = None,
        mix: StyleMix | None = None,
        growth: Growth | None = None,
        *,
        with_styles: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Generate images with the full side, or with `growth.side` if given.

        With `with_styles`, returns (images, styles ``[N, layers, w_dim]``).
        """
        w = self.styles(z, class_index, mix)
        images: Tensor = self.synthesis(w, growth)
        return (images, w) if with_styles else images


def resolutions(size: int) -> list[int]:
    """Return the sides 4, 8, … `size`.

    Raises ValueError unless `size` is a power of two from 16 to 1024.
    """
    if size not in (16, 32, 64, 128, 256, 512, 1024):
        raise ValueError(f"StyleGAN needs a side of 16, 32, 64, … 1024; got {size}")
    return [BASE * 2**i for i in range(int(math.log2(size // BASE)) + 1)]


class StyleOptions(Options):
    """Options shared by the generator and the discriminator of a style-based GAN.

    `width` is the number of channels at full resolution. It doubles with each halving of the side,
    up to `most`.
    """

    width: PositiveInt = 64
    most: PositiveInt = 512

    def widths(self, shape: ImageShape) -> list[int]:
        """Return the channels per resolution, starting at 4×4."""
        sides = resolutions(shape.height)
        return [min(self.width * shape.height // side, self.most) for side in sides]


class StyleGeneratorOptions(StyleOptions, NoiseGeneratorOptions):
    """Options of a generator with a mapping network and a synthesis network."""

    has_styles: ClassVar[bool] = True

    z_dim: PositiveInt = 512
    w_dim: PositiveInt = 512
    mapping_layers: PositiveInt = 8
    # Width of the embedding of the class or the text of a conditional generator.
    class_width: PositiveInt = 64

    def build(self, shape: ImageShape, classes: int = 0, *, grows: bool = False) -> StyleGenerator:
        """Build the network, initialized from the global random state.

        With `grows`, it also supports lower resolutions.
        """
        return self._build(shape, Conditioning.of(classes, self.class_width), grows=grows)

    def build_for_text(self, shape: ImageShape, dimension: int) -> StyleGenerator:
        """Build the network for sentence embeddings ``[N, dimension]``."""
        return self._build(shape, Conditioning.of_text(dimension, self.class_width), grows=False)

    def _build(
        self, shape: ImageShape, conditioning: Conditioning, *, grows: bool
    ) -> StyleGenerator:
        mapping = MappingNetwork(self.z_dim, self.w_dim, self.mapping_layers, conditioning)
        return StyleGenerator(mapping, self.synthesis(shape, grows=grows), self.w_dim)

    def build_growing(self, shape: ImageShape, classes: int = 0) -> StyleGenerator:
        """Build the network with support for lower resolutions."""
        return self.build(shape, classes, grows=True)

    @abstractmethod
    def synthesis(self, shape: ImageShape, *, grows: bool) -> nn.Module:
        """Build the network from styles ``[N, layers, w_dim]`` to images ``[N, C, H, W]``."""


class StyleDiscriminatorOptions(StyleOptions, ImageDiscriminatorOptions):
    """A discriminator of a style-based GAN."""

    def build(self, shape: ImageShape, classes: int = 0, *, grows: bool = False) -> nn.Module:
        """Build the network, initialized from the global random state.

        With `grows`, it also supports lower resolutions.
        """
        conditioning = Conditioning.of(classes, self._width_of_embedding(shape))
        return self.conditioned(shape, conditioning, grows=grows)

    def build_growing(self, shape: ImageShape, classes: int = 0) -> nn.Module:
        """Build the network with support for lower resolutions."""
        return self.build(shape, classes, grows=True)

    def build_for_text(self, shape: ImageShape, dimension: int) -> nn.Module:
        """Build the network for sentence embeddings ``[N, dimension]``."""
        conditioning = Conditioning.of_text(dimension, self._width_of_embedding(shape))
        return self.conditioned(shape, conditioning, grows=False)

    @abstractmethod
    def conditioned(
        self, shape: ImageShape, conditioning: Conditioning, *, grows: bool
    ) -> nn.Module:
        """Build the network, initialized from the global random state."""

    def _width_of_embedding(self, shape: ImageShape) -> int:
        """Return the number of features at 4×4, which the embedding is projected on."""
        return self.widths(shape)[0]
