"""What generators with a style space share: z becomes w, and each layer takes a w of its own."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from itertools import pairwise
from typing import NamedTuple

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from training.networks.layers.conditioning import Conditioning, LabelEmbedding
from training.networks.layers.equalized import EqualizedLinear, leaky_relu
from training.networks.layers.growth import Growth
from training.networks.layers.shapes import ImageShape
from training.networks.noise.options import NoiseOptions
from training.recipe.options import Options

# The side of the learned constant that every picture begins as.
BASE = 4
# The mapping network learns this much slower than the rest (arXiv:1812.04948, appendix C).
MAPPING_RATE = 0.01


class StyleMix(NamedTuple):
    """Second latents ``[N, z_dim]``, whose styles take over from layer `crossover` ``[N]`` on.

    Style mixing regularisation (Karras et al. 2018, arXiv:1812.04948, section 3.1): neighbouring
    styles are not to count on each other. A crossover at the number of layers mixes nothing.
    """

    z: Tensor
    crossover: Tensor


class MappingNetwork(nn.Module):
    """Latents ``[N, z_dim]`` and classes ``[N]`` to styles ``w`` ``[N, w_dim]``."""

    def __init__(self, z_dim: int, w_dim: int, layers: int, conditioning: Conditioning) -> None:
        super().__init__()
        self.label = LabelEmbedding(conditioning)
        widths = [z_dim + conditioning.width] + [w_dim] * layers
        self.layers = nn.ModuleList(
            EqualizedLinear(a, b, rate=MAPPING_RATE) for a, b in pairwise(widths)
        )

    def forward(self, z: Tensor, class_index: Tensor | None = None) -> Tensor:
        w = _normalised(z)
        if (label := self.label.lookup(class_index)) is not None:
            w = torch.cat([w, _normalised(label)], dim=1)
        for layer in self.layers:
            w = leaky_relu(layer(w))
        return w


class StyleGenerator(nn.Module):
    """Latents ``[N, z_dim]`` and classes ``[N]`` to pictures ``[N, C, H, W]``, near [-1, 1].

    `mapping` makes w ``[N, w_dim]`` of them, and `synthesis` a picture of w ``[N, layers, w_dim]``;
    it knows its `layers`, and at which resolution each acts (`layer_resolutions`).
    """

    def __init__(self, mapping: nn.Module, synthesis: nn.Module, w_dim: int) -> None:
        super().__init__()
        self.mapping = mapping
        self.synthesis = synthesis
        self.w_dim = w_dim

    @property
    def takes_transform(self) -> bool:
        """Whether pictures can be moved and turned, by a transform beside the styles."""
        return bool(getattr(self.synthesis, "takes_transform", False))

    @property
    def layers(self) -> int:
        """How many styles a picture takes."""
        return len(self.layer_resolutions)

    @property
    def layer_resolutions(self) -> list[int]:
        """The side at which each layer acts, in pixels."""
        resolutions: list[int] = self.synthesis.layer_resolutions  # type: ignore[assignment]
        return resolutions

    def layers_at(self, growth: Growth | None) -> int:
        """How many of the layers act as far as the generator has grown; 2 at least."""
        if growth is None:
            return self.layers
        return max(sum(side <= growth.side for side in self.layer_resolutions), 2)

    def styles(
        self, z: Tensor, class_index: Tensor | None = None, mix: StyleMix | None = None
    ) -> Tensor:
        """Return w ``[N, layers, w_dim]``, that of one latent in every layer unless mixed."""
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
        """Return the pictures, of the side that `growth` says; whole without one.

        With `with_styles` also the w that they were made of.
        """
        w = self.styles(z, class_index, mix)
        images: Tensor = self.synthesis(w, growth)
        return (images, w) if with_styles else images


def resolutions(size: int) -> list[int]:
    """Return the sides from 4 to `size`. Raises ValueError unless it is 2^k, 16 to 1024."""
    if size not in (16, 32, 64, 128, 256, 512, 1024):
        raise ValueError(f"StyleGAN needs a side of 16, 32, 64, … 1024; got {size}")
    return [BASE * 2**i for i in range(int(math.log2(size // BASE)) + 1)]


def _normalised(x: Tensor) -> Tensor:
    """Scale rows to a mean square of 1."""
    # As a product, whose rows are bit-identical at any batch in ONNX Runtime; a mean over rows of
    # two axes is not: it adds a single row up in another order.
    count = x.shape[1]
    mean_square = x.square() @ x.new_full((count, 1), 1 / count)
    return x * torch.rsqrt(mean_square + 1e-8)


class StyleOptions(Options, ABC):
    """What both players of a style GAN say: `width` channels at the full resolution, twice as many
    at half of it, up to `most`.
    """

    width: PositiveInt = 64
    most: PositiveInt = 512

    def widths(self, shape: ImageShape) -> list[int]:
        """Return the channels at each resolution, from 4×4 up."""
        sides = resolutions(shape.height)
        return [min(self.width * shape.height // side, self.most) for side in sides]

    @abstractmethod
    def build(self, shape: ImageShape, classes: int = 0, *, grows: bool = False) -> nn.Module:
        """Make the network; one that `grows` can play at lower resolutions, too."""


class StyleGeneratorOptions(StyleOptions, NoiseOptions):
    """A mapping network, and the synthesis network of a family."""

    z_dim: PositiveInt = 512
    w_dim: PositiveInt = 512
    mapping_layers: PositiveInt = 8
    # How many values stand for the class, where the recipe is conditional.
    class_width: PositiveInt = 64

    def build(self, shape: ImageShape, classes: int = 0, *, grows: bool = False) -> StyleGenerator:
        """Make the network with fresh weights from the global random state."""
        conditioning = Conditioning.of(classes, self.class_width)
        mapping = MappingNetwork(self.z_dim, self.w_dim, self.mapping_layers, conditioning)
        return StyleGenerator(mapping, self.synthesis(shape, grows=grows), self.w_dim)

    @abstractmethod
    def synthesis(self, shape: ImageShape, *, grows: bool) -> nn.Module:
        """Make the network from styles ``[N, layers, w_dim]`` to pictures ``[N, C, H, W]``."""
