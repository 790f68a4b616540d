"""The generator of FastGAN (Liu et al. 2021, arXiv:2101.04775), which learns from few images.

The latent becomes 4×4 features, which are doubled in side until they are images. Layers are gated
linear units. Features of a low resolution gate the channels of one that is 16 times as large
("skip-layer excitation"), a short path for gradients. Blocks and channels are those of Projected
GANs (Sauer et al. 2021, arXiv:2111.01007), with two changes. There are no noise inputs, so an image
depends on its latent and its class alone. And the normalization of every layer but the first is
conditioned on both, as in BigGAN; when only the class conditioned it, all latents of a class gave
one image. The first layer, which decides on the composition, sees the latent alone.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from training.networks.layers.batch_norm import BatchNorm2d, ConditionalBatchNorm2d, apply_norm
from training.networks.layers.conditioning import Conditioning, LabelEmbedding, concat_label
from training.networks.layers.resampling import upsample_nearest
from training.networks.layers.shapes import ImageShape
from training.networks.layers.spectral import spectral_conv, with_spectral_norm
from training.networks.options import NoiseGeneratorOptions

# Side of the smallest feature maps, in pixels.
BASE = 4
# Channels by side, in units of `width`.
MULTIPLES = {4: 16, 8: 8, 16: 4, 32: 2, 64: 2, 128: 1, 256: 0.5}
# The side of the features that gate the channels, by the side of what they gate.
GATES = {64: 4, 128: 8, 256: 16}
# Sides with two convolutions; the others have one.
DEEP = (16, 64, 256)


class GatedLayer(nn.Module):
    """A 3×3 convolution, conditional batch normalization and a gated linear unit."""

    def __init__(self, fan_in: int, fan_out: int, condition: int) -> None:
        super().__init__()
        self.convolution = spectral_conv(fan_in, fan_out * 2, 3, bias=False)
        self.norm = ConditionalBatchNorm2d(fan_out * 2, condition)

    def forward(self, x: Tensor, condition: Tensor, standing: Tensor | None) -> Tensor:
        return gated_linear_unit(self.norm(self.convolution(x), condition, standing))


class Excitation(nn.Module):
    """Skip-layer excitation: gates ``[N, fan_out, 1, 1]`` from features ``[N, fan_in, h, w]``."""

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.AdaptiveAvgPool2d(BASE),
            with_spectral_norm(nn.Conv2d(fan_in, fan_out, BASE, bias=False)),
            nn.SiLU(),
            spectral_conv(fan_out, fan_out, 1, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        gates: Tensor = self.layers(x)
        return gates


class FastGANGenerator(nn.Module):
    """Maps latents ``[N, z_dim]`` and classes ``[N]`` to images ``[N, C, H, W]`` in [-1, 1]."""

    def __init__(
        self, z_dim: int, shape: ImageShape, widths: dict[int, int], conditioning: Conditioning
    ) -> None:
        """`widths` are the channels by side, starting at 4."""
        super().__init__()
        self.label = LabelEmbedding(conditioning)
        condition, sides = z_dim + conditioning.width, list(widths)
        self.first = with_spectral_norm(
            nn.ConvTranspose2d(z_dim, widths[BASE] * 2, BASE, bias=False)
        )
        self.first_norm = BatchNorm2d(widths[BASE] * 2)
        self.blocks = nn.ModuleList(
            nn.ModuleList(
                GatedLayer(widths[below] if i == 0 else widths[side], widths[side], condition)
                for i in range(2 if side in DEEP else 1)
            )
            for below, side in pairwise(sides)
        )
        self.gates = nn.ModuleDict(
            {
                str(side): Excitation(widths[GATES[side]], widths[side])
                for side in sides
                if side in GATES
            }
        )
        self.to_image = spectral_conv(widths[sides[-1]], shape.channels, 3)
        self.apply(_init_normal)

    def forward(
        self, z: Tensor, class_index: Tensor | None = None, standing: Tensor | None = None
    ) -> Tensor:
        """Generate images; `standing` ``[N, K]`` are the weights for `StandingBatchNorm2d`."""
        condition = concat_label(z, self.label.lookup(class_index))
        x = apply_norm(self.first_norm, self.first(z[:, :, None, None]), standing)
        x = gated_linear_unit(x)
        side, by_side = BASE, {BASE: x}
        for block in self.blocks:
            assert isinstance(block, nn.ModuleList)  # noqa: S101 - for the type checker
            side *= 2
            x = upsample_nearest(x)
            for layer in block:
                x = layer(x, condition, standing)
            if side in GATES:
                x = x * self.gates[str(side)](by_side[GATES[side]])
            by_side[side] = x
        return F.tanh(self.to_image(x))


def gated_linear_unit(x: Tensor) -> Tensor:
    """Return the first half of the channels, gated by the second: ``[N, 2C, H, W]`` to C channels.

    Dauphin et al. 2016, arXiv:1612.08083. Not `torch.nn.functional.glu`, whose gradient is slow on
    CPUs in the layout channels_last.
    """
    values, gates = x.chunk(2, dim=1)
    return values * gates.sigmoid()


def _init_normal(module: nn.Module) -> None:
    """Initialize a layer from N(0, 0.02), as in the authors' code; for `nn.Module.apply`."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        weight = nn.init.normal_(module.weight.detach().clone(), 0.0, 0.02)
        # Assigning a tensor goes through the parametrization of spectral normalization.
        module.weight = weight if hasattr(module, "parametrizations") else nn.Parameter(weight)


class FastGANGeneratorOptions(NoiseGeneratorOptions):
    """A generator of gated layers with skip-layer excitation."""

    network: Literal["fastgan"]
    z_dim: PositiveInt = 256
    # Channels at 128 pixels; lower resolutions have up to 16 times as many.
    width: PositiveInt = 64
    # Width of the embedding of the class or the text of a conditional generator.
    class_width: PositiveInt = 64

    def build(self, shape: ImageShape, classes: int = 0) -> FastGANGenerator:
        """Build the network, initialized from the global random state."""
        return self._build(shape, Conditioning.of(classes, self.class_width))

    def build_for_text(self, shape: ImageShape, dimension: int) -> FastGANGenerator:
        """Build the network for sentence embeddings ``[N, dimension]``."""
        return self._build(shape, Conditioning.of_text(dimension, self.class_width))

    def _build(self, shape: ImageShape, conditioning: Conditioning) -> FastGANGenerator:
        sides = [side for side in MULTIPLES if side <= shape.height]
        if shape.height not in MULTIPLES or len(sides) == 1:
            known = ", ".join(str(side) for side in MULTIPLES if side > BASE)
            raise ValueError(f"FastGAN needs a side of {known}; got {shape.height}")
        widths = {side: max(int(self.width * MULTIPLES[side]), 1) for side in sides}
        return FastGANGenerator(self.z_dim, shape, widths, conditioning)
