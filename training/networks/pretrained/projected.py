"""The discriminator of Projected GANs (Sauer et al. 2021, arXiv:2111.01007).

It judges features of a frozen, pretrained network instead of pixels, and a generator learns from it
with far fewer images. Fixed random projections mix the features, over channels (section 3.2) and
over resolutions, from coarse to fine. One small discriminator judges each resolution.

As in the paper, the network is EfficientNet-Lite1. It is not the default network of `ganymede
evaluate`, but has also learned ImageNet, and distances in such features flatter these generators
(Kynkäänniemi et al. 2022, arXiv:2203.06026).
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from training.networks.layers.conditioning import Conditioning, LabelEmbedding
from training.networks.layers.shapes import ImageShape
from training.networks.layers.spectral import with_spectral_norm
from training.networks.options import ImageDiscriminatorOptions
from training.networks.pretrained.efficientnet import TITLES, EfficientNetLite, Version

_VERSION: Version = "lite1"
# Blocks of the feature network whose outputs are judged, at 1/4, 1/8, 1/16 and 1/32 of the side.
_TAPS = (3, 6, 14, 20)
# The smallest images of the feature network; its coarsest features have 1/32 of the side.
_LEAST_SIDE = 128
# Side of the features that the last layer of each discriminator sees, and of its kernel.
_LAST_SIDE, _LAST_KERNEL = 8, 4
_SLOPE = 0.2


class Projections(nn.Module):
    """Mixes feature maps with fixed random 1×1 convolutions, over channels, then over resolutions.

    Maps with `channels`, from fine to coarse, become maps of twice the side with `widths` channels.
    """

    def __init__(self, channels: list[int], width: int) -> None:
        super().__init__()
        mixed = [width * 2**i for i in range(len(channels))]
        self.widths = [max(each // 2, width) for each in mixed]
        self.over_channels = nn.ModuleList(map(_random_projection, channels, mixed))
        self.over_resolutions = nn.ModuleList(map(_random_projection, mixed, self.widths))
        self.requires_grad_(False)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        maps: list[Tensor] = []
        for i in reversed(range(len(features))):
            x = self.over_channels[i](features[i])
            x = x + maps[-1] if maps else x
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
            maps.append(self.over_resolutions[i](x))
        return maps[::-1]


class PatchJudge(nn.Module):
    """Judges patches of features ``[N, fan_in, side, side]``: logits ``[N, patches]``.

    A class adds the dot product of its embedding with the last features (arXiv:1802.05637).
    """

    def __init__(self, fan_in: int, side: int, most: int, conditioning: Conditioning) -> None:
        """`most` is the number of channels at the last resolution; it halves per doubled side."""
        super().__init__()
        layers: list[nn.Module] = []
        while side > _LAST_SIDE:
            side //= 2
            fan_out = max(most * _LAST_SIDE // side, 1)
            convolution = nn.Conv2d(fan_in, fan_out, 4, stride=2, padding=1, bias=False)
            layers += [with_spectral_norm(convolution), nn.BatchNorm2d(fan_out)]
            layers += [nn.LeakyReLU(_SLOPE, inplace=True)]
            fan_in = fan_out
        self.layers = nn.Sequential(*layers)
        self.label = LabelEmbedding(conditioning)
        self.judge = with_spectral_norm(
            nn.Conv2d(fan_in, 1 + conditioning.width, _LAST_KERNEL, bias=False)
        )

    def forward(self, features: Tensor, class_index: Tensor | None) -> Tensor:
        scores = self.judge(self.layers(features)).flatten(2)
        logits: Tensor = scores[:, 0]
        label = self.label.lookup(class_index)
        if label is not None:
            products = (scores[:, 1:] * label[:, :, None]).sum(1)
            logits = logits + products / math.sqrt(label.shape[1])
        return logits


class ProjectedDiscriminator(nn.Module):
    """Maps images ``[N, C, H, W]`` and classes ``[N]`` to logits ``[N, K]``: positive means real.

    Each of the K logits judges one patch at one of four resolutions.
    """

    def __init__(
        self, shape: ImageShape, side: int, width: int, most: int, conditioning: Conditioning
    ) -> None:
        super().__init__()
        self.side = None if side == shape.height else side
        self.features = EfficientNetLite(_VERSION, _TAPS)
        self.projections = Projections(self.features.channels, width)
        # The projections double the sides of the features.
        self.judges = nn.ModuleList(
            PatchJudge(channels, side // 2 // 2**i, most, conditioning)
            for i, channels in enumerate(self.projections.widths)
        )

    def forward(self, images: Tensor, class_index: Tensor | None = None) -> Tensor:
        if self.side:
            # Antialiasing is not implemented in bfloat16.
            images = F.interpolate(images.float(), self.side, mode="bilinear", antialias=True)
        maps = self.projections(self.features(images))
        logits = [judge(each, class_index) for judge, each in zip(self.judges, maps, strict=True)]
        return torch.cat(logits, dim=1)


def _random_projection(fan_in: int, fan_out: int) -> nn.Module:
    layer = nn.Conv2d(fan_in, fan_out, 1)
    nn.init.kaiming_normal_(layer.weight)
    assert layer.bias is not None  # noqa: S101 - for the type checker
    nn.init.zeros_(layer.bias)
    return layer


class ProjectedDiscriminatorOptions(ImageDiscriminatorOptions):
    """Discriminators of the features of a frozen, pretrained network."""

    pretrained: ClassVar[tuple[str, ...]] = (TITLES[_VERSION],)

    network: Literal["projected"]
    # Channels of the finest projected features; the coarsest have up to four times as many.
    width: PositiveInt = 64
    # Channels of the last layers of the discriminators.
    most: PositiveInt = 512
    # Width of the embedding of the class or the text.
    class_width: PositiveInt = 64
    # Images are resized to this side for the feature network. By default, images keep their size,
    # or are enlarged to 128 pixels.
    side: int | None = Field(default=None, ge=_LEAST_SIDE)

    def build(self, shape: ImageShape, classes: int = 0) -> ProjectedDiscriminator:
        """Build the network, initialized from the global random state.

        Raises FeaturesMissing if the weights of the feature network are not installed.
        """
        return self._build(shape, Conditioning.of(classes, self.class_width))

    def build_for_text(self, shape: ImageShape, dimension: int) -> ProjectedDiscriminator:
        """Build the network for sentence embeddings ``[N, dimension]``."""
        return self._build(shape, Conditioning.of_text(dimension, self.class_width))

    def _build(self, shape: ImageShape, conditioning: Conditioning) -> ProjectedDiscriminator:
        side = self.side or max(shape.height, _LEAST_SIDE)
        if side & (side - 1):
            raise ValueError(
                f"the projected discriminator needs a side of 128, 256, …; got {side}: set "
                "discriminator.side"
            )
        return ProjectedDiscriminator(shape, side, self.width, self.most, conditioning)
