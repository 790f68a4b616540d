"""The synthesis network of StyleGAN3 (Karras et al. 2021, arXiv:2106.12423).

It is used for imported weights only and cannot be trained here. Feature maps are samples of
band-limited signals, which makes the network equivariant to translation and rotation. The first
features are Fourier features, positioned by the style and by the argument `transform`. Each layer
is a modulated convolution, followed by a LeakyReLU at a higher sampling rate between two low-pass
filters (sections 3.1 and 3.2).

For export, the style scales the input of the convolution, and the demodulation scales its output.
The filters are plain depthwise convolutions. All values that depend only on weights are computed
once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_SLOPE = 0.2
# LeakyReLU's gain, which preserves the variance.
_GAIN = math.sqrt(2)


@dataclass(frozen=True)
class Affine:
    """The affine map from w to a layer's style: weight ``[out, w_dim]`` and bias ``[out]``."""

    weight: Tensor
    bias: Tensor

    def linear(self) -> nn.Linear:
        """Build the layer, with the equalized learning rate's scale folded into the weight."""
        fan_out, fan_in = self.weight.shape
        layer = nn.Linear(fan_in, fan_out)
        layer.weight.data.copy_(self.weight / math.sqrt(fan_in))
        layer.bias.data.copy_(self.bias)
        return layer


@dataclass(frozen=True)
class LayerShape:
    """Input and output sides of a layer in samples, including the margin around the image.

    `up` is the ratio of the nonlinearity's sampling rate to the input's, and `down` the ratio of
    the nonlinearity's to the output's.
    """

    side_in: int
    side_out: int
    up: int
    down: int

    def crop(self, kernel: int, up_taps: int, down_taps: int) -> int:
        """Return the number of samples to crop at each edge after upsampling.

        The crop is centered, so that features keep their position (appendix C.3). Raises
        ValueError if it cannot be centered, or if the upsampled signal is too small.
        """
        convolved = self.side_in + kernel - 1
        upsampled = (convolved - 1) * self.up + up_taps
        required = (self.side_out - 1) * self.down + down_taps
        if upsampled < required or (upsampled - required) % 2:
            raise ValueError(
                f"a layer cannot have {self.side_in} input and {self.side_out} output samples "
                f"with filters of {up_taps} and {down_taps} taps"
            )
        return (upsampled - required) // 2


class FourierFeatures(nn.Module):
    """Maps styles ``[N, w_dim]`` and transforms ``[N, 3, 3]`` to features ``[N, C, side, side]``.

    Section 3.2 of the paper. Image coordinates are centered, with side 1; x points right and y
    down. `transform` maps coordinates of the output image to coordinates of the features. The style
    adds a learned rotation and translation.
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
        coordinates = (torch.arange(side) + 0.5 - side / 2) / sampling_rate
        x, y = coordinates.repeat(side), coordinates.repeat_interleave(side)
        self.register_buffer("places", torch.stack([x, y, torch.ones(side**2)]))

    def forward(self, w: Tensor, transform: Tensor) -> Tensor:
        style = self.style(w)
        norm = torch.sqrt(style[:, 0].square() + style[:, 1].square())
        cosine, sine, right, down = (style / norm[:, None]).unbind(1)
        # Translation by the negative style vector, then rotation by its angle.
        entries = [cosine, -sine, sine * down - cosine * right]
        entries += [sine, cosine, -(sine * right + cosine * down)]
        learned = torch.stack(entries, dim=1).reshape(-1, 2, 3)
        # Frequencies along x and y and a phase offset of each feature: [N, C, 3].
        waves = self.frequencies @ (learned @ transform)
        # Fade out frequencies that the transform moves beyond the band limit.
        frequency = torch.sqrt(waves[:, :, 0].square() + waves[:, :, 1].square())
        transition = self.sampling_rate / 2 - self.bandwidth
        amplitude = (1 - (frequency - self.bandwidth) / transition).clamp(0, 1)
        cycles = waves @ self.places + self.phases
        features = torch.sin(cycles * (2 * math.pi)) * amplitude[:, :, None]
        return F.conv2d(features.reshape(-1, len(self.phases), self.side, self.side), self.weight)


class FilteredLayer(nn.Module):
    """Modulated convolution, bias, and a LeakyReLU between two filters: ``[N, C, side, side]``.

    `magnitude` is the moving average, from training, of the input's mean square. It scales the
    weight (section 3.2). Activations are clamped to [-clamp, clamp]. Separable filters are
    ``[taps]`` and are applied along both axes; a radial `down_filter` is ``[taps, taps]``.
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
        normalized = weight * torch.rsqrt(weight.square().mean((1, 2, 3), keepdim=True))
        self.register_buffer("energy", normalized.square().sum((2, 3)).t().contiguous())
        self.register_buffer("weight", normalized * torch.rsqrt(magnitude))
        self.register_buffer("bias", bias[:, None, None])
        # The gain compensates for zero insertion. It includes LeakyReLU's gain, which commutes
        # with the filter. Each axis has the square root of the total gain.
        taps = up_filter * (shape.up * math.sqrt(_GAIN))
        self.register_buffer("up_filter", taps.repeat(len(weight), 1, 1, 1))
        # conv2d computes a correlation, so the filter is flipped.
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
    """A 1×1 convolution from features to an image, modulated but not demodulated.

    The output ``[N, C, side, side]`` is clamped to [-clamp, clamp], then multiplied by `scale`.
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


class StyleGAN3Synthesis(nn.Module):
    """Maps styles ``[N, layers, w_dim]`` and transforms ``[N, 3, 3]`` to images ``[N, C, H, W]``.

    The first style transforms the Fourier features. The following styles are for the layers and the
    output layer, one each.
    `layer_resolutions` are the smallest image sides that can represent each layer's band limit.
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
        """Generate images."""
        x = self.features(w[:, 0], transform)
        for i, layer in enumerate(self.layers):
            x = layer(x, w[:, i + 1])
        image: Tensor = self.last(x, w[:, len(self.layers) + 1])
        return image
