"""WaveGAN (Donahue, McAuley, Puckette 2018, arXiv:1802.04208): DCGAN on waveforms.

Both networks have one-dimensional convolutions of length 25 with stride 4, which change the length
as much as DCGAN's 5×5 convolutions with stride 2 change the area. The generator starts with a dense
layer and uses ReLU and a final tanh; neither network has batch normalization. The discriminator
shuffles the phase of its activations (section 3.3): the artifacts of transposed convolutions always
have the same phase, by which generated sounds could be recognized otherwise.

With classes, the label embedding is concatenated to the noise (arXiv:1411.1784), and the
discriminator adds its projection on the features of the last layer (arXiv:1802.05637). The paper's
networks are unconditional.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from training.networks.layers.conditioning import (
    UNCONDITIONAL,
    Conditioning,
    LabelConcat,
    LabelProjection,
)
from training.networks.layers.shapes import ImageShape
from training.networks.options import ImageDiscriminatorOptions, NoiseGeneratorOptions

_KERNEL, _STRIDE = 25, 4
# The shortest first feature maps; 16 in the paper, for 16,384 samples.
_SHORTEST = 8


def quadruplings(samples: int) -> tuple[int, int]:
    """Return the length of the first feature maps, and the number of quadruplings to `samples`.

    For example, 16,384 gives (16, 5) and 8,192 gives (8, 5). Raises ValueError unless `samples` is
    b·4^k with b ≥ 8 and k ≥ 1.
    """
    base, count = samples, 0
    while base % _STRIDE == 0 and base // _STRIDE >= _SHORTEST:
        base, count = base // _STRIDE, count + 1
    if count == 0:
        raise ValueError(
            f"WaveGAN needs b·4^k samples with b ≥ {_SHORTEST} and k ≥ 1, such as 8192 or 16384; "
            f"got {samples}"
        )
    return base, count


class WaveGANGenerator(nn.Module):
    """Maps latents ``[N, z_dim]`` and classes ``[N]`` to waveforms ``[N, 1, T]`` in [-1, 1]."""

    def __init__(
        self, z_dim: int, samples: int, width: int, conditioning: Conditioning = UNCONDITIONAL
    ) -> None:
        super().__init__()
        self.join = LabelConcat(conditioning)
        base, count = quadruplings(samples)
        widths = [width * 2**i for i in reversed(range(count))]
        self.dense = nn.Linear(z_dim + conditioning.width, widths[0] * base)
        self._shape = (widths[0], base)
        layers: list[nn.Module] = [nn.ReLU()]
        for fan_in, fan_out in pairwise([*widths, 1]):
            layers += [
                nn.ConvTranspose1d(fan_in, fan_out, _KERNEL, _STRIDE, 11, output_padding=1),
                nn.ReLU() if fan_out > 1 else nn.Tanh(),
            ]
        # A generator of width 1 has a layer with one channel that is not the last.
        layers[-1] = nn.Tanh()
        self.layers = nn.Sequential(*layers)
        self.apply(_initialize)

    def forward(self, z: Tensor, class_index: Tensor | None = None) -> Tensor:
        x = self.dense(self.join(z, class_index)).unflatten(1, self._shape)
        waveforms: Tensor = self.layers(x)
        return waveforms


class PhaseShuffle(nn.Module):
    """Shifts activations ``[N, C, T]`` by a random number of samples from -n to n (section 3.3).

    The missing samples are filled by reflection. The shift is drawn once per call, as in the
    official implementation. In eval mode, nothing is shifted.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.most:
            return x
        shift = int(torch.randint(-self.most, self.most + 1, ()))
        if shift == 0:
            return x
        if shift > 0:
            return F.pad(x, (shift, 0), mode="reflect")[..., :-shift]
        return F.pad(x, (0, -shift), mode="reflect")[..., -shift:]


class WaveGANDiscriminator(nn.Module):
    """Maps waveforms ``[N, 1, T]`` and classes ``[N]`` to logits ``[N]``: positive means real."""

    def __init__(
        self,
        samples: int,
        width: int,
        phase_shuffle: int,
        classes: int = 0,
    ) -> None:
        super().__init__()
        base, count = quadruplings(samples)
        widths = [1, *(width * 2**i for i in range(count))]
        layers: list[nn.Module] = []
        for number, (fan_in, fan_out) in enumerate(pairwise(widths), 1):
            layers += [
                nn.Conv1d(fan_in, fan_out, _KERNEL, _STRIDE, 11),
                nn.LeakyReLU(0.2),
            ]
            # Not after the last convolution, as in the official implementation.
            if number < count:
                layers.append(PhaseShuffle(phase_shuffle))
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.score = nn.Linear(widths[-1] * base, 1)
        self.project = LabelProjection(Conditioning.of(classes, widths[-1] * base))
        self.apply(_initialize)
        if self.project.embed is not None:
            # As small as the weights of `score`, not N(0, 1) for every feature.
            nn.init.normal_(self.project.embed.weight, 0.0, 0.02)

    def forward(self, waveforms: Tensor, class_index: Tensor | None = None) -> Tensor:
        features = self.features(waveforms)
        logits: Tensor = self.score(features).flatten() + self.project(features, class_index)
        return logits


def _initialize(module: nn.Module) -> None:
    """Initialize a layer as the official implementation does: Glorot uniform, biases 0."""
    if isinstance(module, nn.Conv1d | nn.ConvTranspose1d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class WaveGANGeneratorOptions(NoiseGeneratorOptions):
    """A generator of waveforms; `width` is the channel count before its last layer."""

    network: Literal["wavegan"]
    z_dim: PositiveInt = 100
    # d in the paper.
    width: PositiveInt = 64
    # Width of the class embedding of a conditional generator.
    class_width: PositiveInt = 32

    def build(self, shape: ImageShape, classes: int = 0) -> nn.Module:  # noqa: ARG002
        """Raise ValueError: the network does not generate images."""
        raise _no_images()

    def build_sound(self, samples: int, classes: int = 0) -> WaveGANGenerator:
        """Build the network, initialized from the global random state."""
        conditioning = Conditioning.of(classes, self.class_width)
        return WaveGANGenerator(self.z_dim, samples, self.width, conditioning)


class WaveGANDiscriminatorOptions(ImageDiscriminatorOptions):
    """A discriminator of waveforms; `width` is the channel count of its first layer."""

    network: Literal["wavegan"]
    width: PositiveInt = 64
    # The largest shift of phase shuffle, in samples of each layer; 0 disables it.
    phase_shuffle: int = Field(default=2, ge=0, le=7)

    def build(self, shape: ImageShape, classes: int = 0) -> nn.Module:  # noqa: ARG002
        """Raise ValueError: the network does not classify images."""
        raise _no_images()

    def build_sound(self, samples: int, classes: int = 0) -> WaveGANDiscriminator:
        """Build the network, initialized from the global random state."""
        return WaveGANDiscriminator(samples, self.width, self.phase_shuffle, classes)


def _no_images() -> ValueError:
    return ValueError("wavegan is a network for sounds: set game.kind=noise_to_sound")
