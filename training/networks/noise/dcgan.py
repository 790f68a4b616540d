"""DCGAN (Radford, Metz, Chintala 2015, arXiv:1511.06434).

Both networks have strided or transposed convolutions instead of pooling, and batch normalization
except at the generator's output and the discriminator's input. The generator uses ReLU, the
discriminator LeakyReLU. Weights are initialized from N(0, 0.02). With classes, the label embedding
is concatenated to the noise, and to the image as constant channels (arXiv:1411.1784).

Without normalization, or with layer normalization, the discriminator is the critic of WGAN and
WGAN-GP (arXiv:1704.00028, section 4: a gradient penalty per image rules out batch normalization).
With spectral normalization, it is the discriminator of SNGAN (arXiv:1802.05957).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from training.networks.layers.conditioning import (
    UNCONDITIONAL,
    Conditioning,
    LabelChannels,
    LabelConcat,
)
from training.networks.layers.minibatch import (
    MinibatchDiscrimination,
    MinibatchKind,
    MinibatchStandardDeviation,
)
from training.networks.layers.shapes import ImageShape
from training.networks.options import ImageDiscriminatorOptions, NoiseGeneratorOptions

Normalization = Literal["batch", "layer", "spectral", "none"]


def doublings(size: int) -> tuple[int, int]:
    """Return the side of the first feature maps, and the number of doublings to reach `size`.

    For example, 64 gives (4, 4) and 28 gives (7, 2). Raises ValueError unless `size` is b·2^k with
    b ≥ 4 and k ≥ 1.
    """
    base, count = size, 0
    while base % 2 == 0 and base // 2 >= 4:
        base, count = base // 2, count + 1
    if count == 0:
        raise ValueError(f"DCGAN needs a side of b·2^k with b ≥ 4 and k ≥ 1; got {size}")
    return base, count


class DCGANGenerator(nn.Module):
    """Maps latents ``[N, z_dim]`` and classes ``[N]`` to images ``[N, C, H, W]`` in [-1, 1]."""

    def __init__(
        self,
        z_dim: int,
        shape: ImageShape,
        width: int,
        conditioning: Conditioning = UNCONDITIONAL,
    ) -> None:
        super().__init__()
        self.join = LabelConcat(conditioning)
        z_dim += conditioning.width
        base, count = doublings(shape.height)
        widths = [width * 2**i for i in reversed(range(count))]
        layers: list[nn.Module] = [
            nn.ConvTranspose2d(z_dim, widths[0], base, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(inplace=True),
        ]
        for fan_in, fan_out in pairwise(widths):
            layers += [
                nn.ConvTranspose2d(fan_in, fan_out, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(fan_out),
                nn.ReLU(inplace=True),
            ]
        layers += [
            nn.ConvTranspose2d(widths[-1], shape.channels, 4, stride=2, padding=1),
            nn.Tanh(),
        ]
        self.layers = nn.Sequential(*layers)
        self.apply(_initialize)

    def forward(self, z: Tensor, class_index: Tensor | None = None) -> Tensor:
        images: Tensor = self.layers(self.join(z, class_index)[:, :, None, None])
        return images


class DCGANDiscriminator(nn.Module):
    """Maps images ``[N, C, H, W]`` and classes ``[N]`` to logits ``[N]``: positive means real."""

    def __init__(
        self,
        shape: ImageShape,
        width: int,
        normalization: Normalization = "batch",
        conditioning: Conditioning = UNCONDITIONAL,
        minibatch: MinibatchKind = "none",
    ) -> None:
        super().__init__()
        self.join = LabelChannels(conditioning)
        base, count = doublings(shape.height)
        widths = [width * 2**i for i in range(count)]
        layers: list[nn.Module] = [
            nn.Conv2d(shape.channels + conditioning.width, widths[0], 4, stride=2, padding=1),
            nn.LeakyReLU(0.2, inplace=True),
        ]
        for fan_in, fan_out in pairwise(widths):
            normalized = _normalization(normalization, fan_out)
            bias = not normalized
            layers += [
                nn.Conv2d(fan_in, fan_out, 4, stride=2, padding=1, bias=bias),
                *normalized,
                nn.LeakyReLU(0.2, inplace=True),
            ]
        match minibatch:
            case "standard_deviation":
                deviation = MinibatchStandardDeviation()
                layers += [deviation, nn.Conv2d(widths[-1] + deviation.added, 1, base)]
            case "discrimination":
                discrimination = MinibatchDiscrimination(widths[-1] * base**2)
                features = widths[-1] * base**2 + discrimination.added
                layers += [nn.Flatten(), discrimination, nn.Linear(features, 1)]
            case "none":
                layers.append(nn.Conv2d(widths[-1], 1, base))
        self.layers = nn.Sequential(*layers)
        self.apply(_initialize)
        if normalization == "spectral":
            for layer in self.layers:
                if isinstance(layer, nn.Conv2d | nn.Linear):
                    spectral_norm(layer)

    def forward(self, images: Tensor, class_index: Tensor | None = None) -> Tensor:
        logits: Tensor = self.layers(self.join(images, class_index))
        return logits.flatten()


def _normalization(kind: Normalization, width: int) -> list[nn.Module]:
    match kind:
        case "batch":
            return [nn.BatchNorm2d(width)]
        case "layer":
            return [nn.GroupNorm(1, width)]
        case "spectral" | "none":
            return []


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


class DCGANGeneratorOptions(NoiseGeneratorOptions):
    """A generator of transposed convolutions; `width` is the channel count of its last layer."""

    network: Literal["dcgan"]
    z_dim: PositiveInt = 100
    width: PositiveInt = 64
    # Width of the class embedding of a conditional generator.
    class_width: PositiveInt = 32

    def build(self, shape: ImageShape, classes: int = 0) -> DCGANGenerator:
        """Build the network, initialized from the global random state."""
        return DCGANGenerator(
            self.z_dim, shape, self.width, Conditioning.of(classes, self.class_width)
        )


class DCGANDiscriminatorOptions(ImageDiscriminatorOptions):
    """A discriminator of strided convolutions; `width` is the channel count of its first layer."""

    network: Literal["dcgan"]
    width: PositiveInt = 64
    normalisation: Normalization = "batch"
    # A layer with batch statistics before the output, against mode collapse.
    minibatch: MinibatchKind = "none"
    # Number of class channels of a conditional discriminator.
    class_width: PositiveInt = 8

    def build(self, shape: ImageShape, classes: int = 0) -> DCGANDiscriminator:
        """Build the network, initialized from the global random state."""
        return DCGANDiscriminator(
            shape,
            self.width,
            self.normalisation,
            Conditioning.of(classes, self.class_width),
            self.minibatch,
        )
