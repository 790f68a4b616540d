"""PatchGAN, a discriminator of overlapping patches (Isola et al. 2017, arXiv:1611.07004).

Section 3.2.2: strided 4×4 convolutions and LeakyReLU, without normalization in the first layer. A
patch is 70 pixels wide with three layers, and 34 pixels with two. A conditional discriminator takes
the input image as additional channels. With spectral normalization, it is the SN-PatchGAN for
inpainting (Yu et al. 2018, arXiv:1806.03589).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from training.networks.layers.normalization import (
    ImageNormalization,
    init_weights,
    normalization_layers,
)
from training.networks.options import PatchDiscriminatorOptions


class PatchDiscriminator(nn.Module):
    """Maps images ``[N, C, H, W]`` to one logit per patch ``[N, 1, h, w]``; positive means real."""

    def __init__(
        self, channels: int, width: int, layers: int, normalization: ImageNormalization
    ) -> None:
        super().__init__()
        widths = [width * min(2**i, 8) for i in range(layers + 1)]
        parts: list[nn.Module] = [
            nn.Conv2d(channels, widths[0], 4, stride=2, padding=1),
            nn.LeakyReLU(0.2, inplace=True),
        ]
        for i, (fan_in, fan_out) in enumerate(pairwise(widths)):
            stride = 2 if i < layers - 1 else 1
            normalized = normalization_layers(normalization, fan_out)
            parts += [
                nn.Conv2d(fan_in, fan_out, 4, stride, padding=1, bias=not normalized),
                *normalized,
                nn.LeakyReLU(0.2, inplace=True),
            ]
        parts.append(nn.Conv2d(widths[-1], 1, 4, padding=1))
        self.layers = nn.Sequential(*parts)
        self.apply(init_weights)
        if normalization == "spectral":
            for layer in self.layers:
                if isinstance(layer, nn.Conv2d):
                    spectral_norm(layer)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images)
        return logits


class PatchGANOptions(PatchDiscriminatorOptions):
    """Options of PatchGAN; `width` is the number of channels of the first layer."""

    network: Literal["patchgan"]
    width: PositiveInt = 64
    # Layers between the first and the last. More layers mean larger patches.
    layers: PositiveInt = 3
    normalisation: ImageNormalization = "batch"

    def build(self, channels: int) -> PatchDiscriminator:
        """Build the network for `channels` input channels, from the global random state."""
        return PatchDiscriminator(channels, self.width, self.layers, self.normalisation)
