"""The layers that BigGAN and BigGAN-deep are made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from training.networks.layers.conditioning import Conditioning, LabelProjection

# The side of the picture that the first layer makes and the last one judges.
BASE = 4


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that in evaluation is a scale and a shift, and is exported so."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            normalised: Tensor = super().forward(x)
            return normalised
        assert self.running_mean is not None  # noqa: S101 - for the type checker
        assert self.running_var is not None  # noqa: S101 - for the type checker
        scale = torch.rsqrt(self.running_var + self.eps)
        shift = -self.running_mean * scale
        if self.affine:
            scale, shift = scale * self.weight, shift * self.weight + self.bias
        return x * scale[:, None, None] + shift[:, None, None]


class StandingBatchNorm2d(nn.Module):
    """A fitted batch normalisation whose statistics each row mixes for itself.

    Of K of them, ``means`` and ``deviations`` ``[K, C]``, each row of ``[N, C, H, W]`` takes its
    shares ``[N, K]``. See `training.export.standing_statistics` for where they come from.
    """

    def __init__(self, norm: BatchNorm2d, means: Tensor, variances: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        self.means: Tensor
        self.deviations: Tensor
        self.register_buffer("means", means)
        # Deviations rather than variances: activations grow about as the latent does, and then the
        # line between two of them is near the truth, where that between two squares is not.
        self.register_buffer("deviations", (variances + norm.eps).sqrt())

    def forward(self, x: Tensor, standing: Tensor) -> Tensor:
        scale = 1 / (standing @ self.deviations)
        shift = -(standing @ self.means) * scale
        if self.weight is not None:
            scale, shift = scale * self.weight, shift * self.weight + self.bias
        return x * scale[:, :, None, None] + shift[:, :, None, None]


class ConditionalBatchNorm2d(nn.Module):
    """Batch normalisation of ``[N, C, H, W]``, its gain and bias from a condition ``[N, D]``."""

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.norm = BatchNorm2d(channels, affine=False)
        self.gain = with_spectral_norm(nn.Linear(condition, channels, bias=False))
        self.bias = with_spectral_norm(nn.Linear(condition, channels, bias=False))

    def forward(self, x: Tensor, condition: Tensor, standing: Tensor | None = None) -> Tensor:
        gain: Tensor = 1 + self.gain(condition)
        bias: Tensor = self.bias(condition)
        normalised: Tensor = apply_norm(self.norm, x, standing)
        return normalised * gain[:, :, None, None] + bias[:, :, None, None]


class SelfAttention(nn.Module):
    """Every place looks at every other (Zhang et al. 2018, arXiv:1805.08318). Begins as nothing."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(channels // 8, 1)
        self.query = spectral_conv(channels, inner, 1, bias=False)
        self.key = spectral_conv(channels, inner, 1, bias=False)
        self.value = spectral_conv(channels, max(channels // 2, 1), 1, bias=False)
        self.out = spectral_conv(max(channels // 2, 1), channels, 1, bias=False)
        self.strength = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        query = self.query(x).flatten(2)
        key = F.max_pool2d(self.key(x), 2).flatten(2)
        value = F.max_pool2d(self.value(x), 2).flatten(2)
        looks = torch.softmax(query.transpose(1, 2) @ key, dim=-1)
        seen = (value @ looks.transpose(1, 2)).reshape(x.shape[0], -1, height, width)
        attended: Tensor = x + self.strength * self.out(seen)
        return attended


class ToImages(nn.Sequential):
    """The generator's end: features ``[N, D, H, W]`` to pictures ``[N, C, H, W]`` in [-1, 1]."""

    def __init__(self, width: int, channels: int) -> None:
        layers = (nn.ReLU(inplace=True), spectral_conv(width, channels, 3), nn.Tanh())
        super().__init__(BatchNorm2d(width), *layers)

    def forward(self, x: Tensor, standing: Tensor | None = None) -> Tensor:
        norm, *rest = self
        x = apply_norm(norm, x, standing)
        for layer in rest:
            x = layer(x)
        return x


class ProjectionDiscriminator(nn.Module):
    """Pictures ``[N, C, H, W]`` and classes ``[N]`` to logits ``[N]``: positive is real.

    `blocks` make features of `width` channels, which are summed over the picture.
    """

    def __init__(self, blocks: list[nn.Module], width: int, conditioning: Conditioning) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.judge = with_spectral_norm(nn.Linear(width, 1))
        self.project = LabelProjection(conditioning)
        self.apply(init_orthogonal)
        if self.project.embed is not None:
            with_spectral_norm(self.project.embed)

    def forward(self, images: Tensor, class_index: Tensor | None = None) -> Tensor:
        features = F.relu(self.blocks(images)).sum((2, 3))
        logits: Tensor = self.judge(features).squeeze(1) + self.project(features, class_index)
        return logits


def apply_norm(norm: nn.Module, x: Tensor, standing: Tensor | None) -> Tensor:
    """Normalise ``[N, C, H, W]``; `standing` [N, K] is for standing statistics, and only there."""
    normalised: Tensor = norm(x) if standing is None else norm(x, standing)
    return normalised


def concat_label(z: Tensor, label: Tensor | None) -> Tensor:
    """Join latents ``[N, D]`` and the classes' embeddings, where there are any."""
    return z if label is None else torch.cat([z, label], dim=1)


def spectral_conv(fan_in: int, fan_out: int, kernel: int, *, bias: bool = True) -> nn.Module:
    """Make a convolution that keeps the size, its weight spectrally normalised."""
    return with_spectral_norm(nn.Conv2d(fan_in, fan_out, kernel, padding=kernel // 2, bias=bias))


def with_spectral_norm(layer: nn.Module) -> nn.Module:
    """Hold a layer's weight to a largest singular value of 1: arXiv:1802.05957."""
    # On `meta` there are shapes and no values to hold, and PyTorch takes seconds to find that out.
    if layer.get_parameter("weight").is_meta:
        return layer
    normalised: nn.Module = spectral_norm(layer)
    return normalised


def init_orthogonal(module: nn.Module) -> None:
    """Begin orthogonal: Saxe et al. 2013, arXiv:1312.6120."""
    if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
        # Through the parametrisation of spectral normalisation, where there is one.
        weight = torch.empty_like(module.weight)
        nn.init.orthogonal_(weight)
        with torch.no_grad():
            module.weight = weight if hasattr(module, "parametrizations") else nn.Parameter(weight)
