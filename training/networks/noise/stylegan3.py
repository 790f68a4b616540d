"""The synthesis network of StyleGAN3 (Karras et al. 2021, arXiv:2106.12423), for weights that are
there: it is imported and served, not trained.

Features are samples of a signal without frequencies above a cutoff, so that what a picture shows
can be moved and turned without sticking to the pixels. A picture begins as Fourier features, whose
place the latent and the caller's `transform` say; every layer is a modulated convolution and a
LeakyReLU at a higher sampling rate, between two low-pass filters (sections 3.1 and 3.2).

Written for export: the style scales the convolution's input and the demodulation its output, the
filters are plain depthwise convolutions, and what depends on weights alone is computed once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_SLOPE = 0.2
# LeakyReLU's gain, by which it keeps the variance.
_GAIN = math.sqrt(2)


@dataclass(frozen=True)
class Affine:
    """The weights ``[out, w_dim]`` and biases ``[out]`` that make a layer's style of w."""

    weight: Tensor
    bias: Tensor

    def linear(self) -> nn.Linear:
        """Return the layer, with the scale of its equalised learning rate in the weights."""
        fan_out, fan_in = self.weight.shape
        layer = nn.Linear(fan_in, fan_out)
        layer.weight.data.copy_(self.weight / math.sqrt(fan_in))
        layer.bias.data.copy_(self.bias)
        return layer


@dataclass(frozen=True)
class LayerShape:
    """Sides of what a layer takes and gives, in samples, the margin around the picture counted in.

    `up` and `down` say by how much the nonlinearity's sampling rate is above that of what comes in
    and what goes out.
    """

    side_in: int
    side_out: int
    up: int
    down: int

    def crop(self, kernel: int, up_taps: int, down_taps: int) -> int:
        """Return how many samples at each edge of what was filtered upwards are not needed.

        The middle is kept, so that what is in the middle of a picture stays there (appendix C.3).
        Raises ValueError where there is no middle, or nothing left over.
        """
        convolved = self.side_in + kernel - 1
        filtered = (convolved - 1) * self.up + up_taps
        needed = (self.side_out - 1) * self.down + down_taps
        if filtered < needed or (filtered - needed) % 2:
            raise ValueError(f"{self.side_out} samples cannot be made of {self.side_in}")
        return (filtered - needed) // 2


class FourierFeatures(nn.Module):
    """Styles ``[N, w_dim]`` and transforms ``[N, 3, 3]`` to ``[N, C, side, side]`` (section 3.2).

    A picture is 1 wide and 0 is its middle; x goes to the right and y down. A transform leads from
    a place in the picture that is made to the place whose content is shown there. The style turns
    and moves the features before that.
    """

    frequencies: Tensor
    phases: Tensor
    places: Tensor
    weight: Tensor

    def __init__(
        self,
        affine: Affine,
        frequencies: Tensor,
        phases: Tensor,
        weight: Tensor,
        side: int,
        sampling_rate: float,
        bandwidth: float,
    ) -> None:
        super().__init__()
        self.style = affine.linear()
        self.side, self.sampling_rate, self.bandwidth = side, sampling_rate, bandwidth
        self.register_buffer("frequencies", frequencies)
        self.register_buffer("phases", phases[:, None])
        self.register_buffer("weight", weight[:, :, None, None] / math.sqrt(len(phases)))
        at = (torch.arange(side) + 0.5 - side / 2) / sampling_rate
        across, upright = at.repeat(side), at.repeat_interleave(side)
        self.register_buffer("places", torch.stack([across, upright, torch.ones(side**2)]))

    def forward(self, w: Tensor, transform: Tensor) -> Tensor:
        style = self.style(w)
        length = torch.sqrt(style[:, 0].square() + style[:, 1].square())
        cosine, sine, right, down = (style / length[:, None]).unbind(1)
        # What is moved against the style's vector, and then turned by its angle.
        turned = [cosine, -sine, sine * down - cosine * right]
        turned += [sine, cosine, -(sine * right + cosine * down)]
        learned = torch.stack(turned, dim=1).reshape(-1, 2, 3)
        # For each feature its frequencies along x and y, and what is added to its phase.
        waves = self.frequencies @ (learned @ transform)
        # What a transform makes finer than the samples can hold fades out.
        radius = torch.sqrt(waves[:, :, 0].square() + waves[:, :, 1].square())
        room = self.sampling_rate / 2 - self.bandwidth
        amplitude = (1 - (radius - self.bandwidth) / room).clamp(0, 1)
        turns = waves @ self.places + self.phases
        features = torch.sin(turns * (2 * math.pi)) * amplitude[:, :, None]
        return F.conv2d(features.reshape(-1, len(self.phases), self.side, self.side), self.weight)


class FilteredLayer(nn.Module):
    """Modulated convolution, bias, and a LeakyReLU between two filters: ``[N, C, side, side]``.

    `magnitude` is the mean square of what came in while it was trained, by which it is scaled
    (section 3.2). Values beyond `clamp` are cut. `up_filter` ``[taps]`` and `down_filter`
    ``[taps]`` are applied along both axes; one that is radial is ``[taps, taps]``.
    """

    weight: Tensor
    energy: Tensor
    bias: Tensor
    up_filter: Tensor
    down_filter: Tensor

    def __init__(
        self,
        shape: LayerShape,
        affine: Affine,
        weight: Tensor,
        bias: Tensor,
        magnitude: Tensor,
        up_filter: Tensor,
        down_filter: Tensor,
        clamp: float | None,
    ) -> None:
        super().__init__()
        self.shape, self.clamp = shape, clamp
        self.crop = shape.crop(weight.shape[2], len(up_filter), len(down_filter))
        self.padding = weight.shape[2] - 1
        self.style = affine.linear()
        normalised = weight * torch.rsqrt(weight.square().mean((1, 2, 3), keepdim=True))
        self.register_buffer("energy", normalised.square().sum((2, 3)).t().contiguous())
        self.register_buffer("weight", normalised * torch.rsqrt(magnitude))
        self.register_buffer("bias", bias[:, None, None])
        # Between the samples there are zeros, so the filter has more gain; LeakyReLU's own
        # commutes with it. Half of each is in either direction.
        taps = up_filter * (shape.up * math.sqrt(_GAIN))
        self.register_buffer("up_filter", taps.repeat(len(weight), 1, 1, 1))
        # A convolution here does not mirror its filter.
        mirrored = down_filter.flip(tuple(range(down_filter.ndim)))
        kernel = mirrored if mirrored.ndim == 2 else mirrored[None]
        self.register_buffer("down_filter", kernel.repeat(len(weight), 1, 1, 1))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        style = self.style(w)
        x = F.conv2d(x * style[:, :, None, None], self.weight, padding=self.padding)
        x = x * torch.rsqrt(style.square() @ self.energy + 1e-8)[:, :, None, None] + self.bias
        up, down, crop, channels = self.shape.up, self.shape.down, self.crop, len(self.bias)
        column, row = self.up_filter.transpose(2, 3), self.up_filter
        x = F.conv_transpose2d(x, column, stride=(up, 1), padding=(crop, 0), groups=channels)
        x = F.conv_transpose2d(x, row, stride=(1, up), padding=(0, crop), groups=channels)
        x = F.leaky_relu(x, _SLOPE)
        if self.clamp is not None:
            x = x.clamp(-self.clamp, self.clamp)
        if self.down_filter.shape[2] > 1:
            return F.conv2d(x, self.down_filter, stride=down, groups=channels)
        column, row = self.down_filter.transpose(2, 3), self.down_filter
        x = F.conv2d(x, row, stride=(1, down), groups=channels)
        return F.conv2d(x, column, stride=(down, 1), groups=channels)


class LastLayer(nn.Module):
    """Features to a picture, 1×1, modulated and not demodulated: ``[N, C, side, side]``.

    The picture is scaled by `scale` after it was cut at `clamp`.
    """

    weight: Tensor
    bias: Tensor

    def __init__(
        self,
        affine: Affine,
        weight: Tensor,
        bias: Tensor,
        magnitude: Tensor,
        clamp: float | None,
        scale: float,
    ) -> None:
        super().__init__()
        self.style = affine.linear()
        gain = scale * torch.rsqrt(magnitude) / math.sqrt(weight.shape[1])
        self.register_buffer("weight", weight * gain)
        self.register_buffer("bias", bias * scale)
        self.clamp = None if clamp is None else clamp * scale

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        x = F.conv2d(x * self.style(w)[:, :, None, None], self.weight, self.bias)
        return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)


class SynthesisNetwork(nn.Module):
    """Styles ``[N, layers, w_dim]`` and transforms ``[N, 3, 3]`` to pictures ``[N, C, H, W]``.

    The first style moves the Fourier features, each layer has one, and the last makes the picture.
    `layer_resolutions` are the sides of pictures that could hold what a layer adds.
    """

    takes_transform = True

    def __init__(
        self,
        features: FourierFeatures,
        layers: Sequence[FilteredLayer],
        last: LastLayer,
        layer_resolutions: Sequence[int],
    ) -> None:
        super().__init__()
        self.features, self.layers, self.last = features, nn.ModuleList(layers), last
        self.layer_resolutions = list(layer_resolutions)

    def forward(self, w: Tensor, transform: Tensor) -> Tensor:
        """Make pictures."""
        x = self.features(w[:, 0], transform)
        for i, layer in enumerate(self.layers):
            x = layer(x, w[:, i + 1])
        image: Tensor = self.last(x, w[:, len(self.layers) + 1])
        return image
