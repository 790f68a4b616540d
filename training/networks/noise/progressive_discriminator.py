"""The discriminator of StyleGAN and StyleGAN2, with optional progressive growing.

Karras et al. 2017, arXiv:1710.10196, section 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

from torch import Tensor, nn

from training.networks.layers.conditioning import Conditioning, LabelProjection
from training.networks.layers.equalized import EqualizedConv2d, EqualizedLinear, leaky_relu
from training.networks.layers.growth import Growth
from training.networks.layers.minibatch import MinibatchStandardDeviation
from training.networks.layers.resampling import downsample_average
from training.networks.layers.shapes import ImageShape
from training.networks.noise.style_generator import BASE


class ProgressiveDiscriminator(nn.Module):
    """Maps images ``[N, C, H, W]`` and classes ``[N]`` to logits ``[N]``: positive means real.

    `widths` are the channels from full resolution down to 4×4. `block` builds a downsampling block
    from its input and output channels. With `grows`, the discriminator has an input layer for each
    resolution. The width of `conditioning` is the last of `widths`.
    """

    def __init__(
        self,
        shape: ImageShape,
        widths: list[int],
        conditioning: Conditioning,
        block: Callable[[int, int], nn.Module],
        *,
        grows: bool = False,
    ) -> None:
        super().__init__()
        sides = [shape.height // 2**i for i in range(len(widths))]
        self.from_image = nn.ModuleDict(
            {
                str(side): EqualizedConv2d(shape.channels, width, 1)
                for side, width in zip(sides, widths, strict=True)
                if grows or side == shape.height
            }
        )
        self.blocks = nn.ModuleDict(
            {
                str(side): block(a, b)
                for side, (a, b) in zip(sides[:-1], pairwise(widths), strict=True)
            }
        )
        self.deviation = MinibatchStandardDeviation()
        last = widths[-1]
        self.last = EqualizedConv2d(last + self.deviation.added, last, 3)
        self.features = EqualizedLinear(last * BASE**2, last)
        self.judge = EqualizedLinear(last, 1)
        self.project = LabelProjection(conditioning)

    def forward(
        self, images: Tensor, class_index: Tensor | None = None, growth: Growth | None = None
    ) -> Tensor:
        """Return logits for images with the full side, or with `growth.side` if given."""
        side = growth.side if growth else images.shape[-1]
        x = self._from_images(images, side)
        while side > BASE:
            x = self.blocks[str(side)](x)
            side //= 2
            if growth and growth.alpha < 1 and side == growth.side // 2:
                x = self._from_images(downsample_average(images), side).lerp(x, growth.alpha)
        x = leaky_relu(self.last(self.deviation(x)))
        features = leaky_relu(self.features(x.flatten(1)))
        conditional = self.project(features, class_index) / math.sqrt(features.shape[1])
        logits: Tensor = self.judge(features).squeeze(1) + conditional
        return logits

    def _from_images(self, images: Tensor, side: int) -> Tensor:
        return leaky_relu(self.from_image[str(side)](images))
