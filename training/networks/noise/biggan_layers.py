"""Layers shared by BigGAN and BigGAN-deep."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from training.networks.layers.conditioning import Conditioning, LabelProjection

# Side of the smallest feature maps, in pixels.
BASE = 4


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalization that is one scale and one shift in eval mode and in exported graphs."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            normalized: Tensor = super().forward(x)
            return normalized
        assert self.running_mean is not None  # noqa: S101 - for the type checker
        assert self.running_var is not None  # noqa: S101 - for the type checker
        scale = torch.rsqrt(self.running_var + self.eps)
        shift = -self.running_mean * scale
        if self.affine:
            scale, shift = scale * self.weight, shift * self.weight + self.bias
        return x * scale[:, None, None] + shift[:, None, None]


class StandingBatchNorm2d(nn.Module):
    """Batch normalization with K sets of fixed statistics, interpolated for each row.

    `means` and `deviations` are ``[K, C]``. Each row of ``[N, C, H, W]`` interpolates them with its
    weights `standing` ``[N, K]``. `training.export.standing_statistics` computes the statistics.
    """

    def __init__(self, norm: BatchNorm2d, means: Tensor, variances: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        self.means: Tensor
        self.deviations: Tensor
        self.register_buffer("means", means)
        # Interpolate standard deviations, not variances: activations grow about linearly with the
        # latent's scale, so linear interpolation is accurate for deviations only.
        self.register_buffer("deviations", (variances + norm.eps).sqrt())

    def forward(self, x: Tensor, standing: Tensor) -> Tensor:
        scale = 1 / (standing @ self.deviations)
        shift = -(standing @ self.means) * scale
        if self.weight is not None:
            scale, shift = scale * self.weight, shift * self.weight + self.bias
        return x * scale[:, :, None, None] + shift[:, :, None, None]


class ConditionalBatchNorm2d(nn.Module):
    """Batch normalization of ``[N, C, H, W]`` with gain and bias from a condition ``[N, D]``."""

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.norm = BatchNorm2d(channels, affine=False)
        self.gain = with_spectral_norm(nn.Linear(condition, channels, bias=False))
        self.bias = with_spectral_norm(nn.Linear(condition, channels, bias=False))

    def forward(self, x: Tensor, condition: Tensor, standing: Tensor | None = None) -> Tensor:
        gain: Tensor = 1 + self.gain(condition)
        bias: Tensor = self.bias(condition)
        normalized: Tensor = apply_norm(self.norm, x, standing)
        return normalized * gain[:, :, None, None] + bias[:, :, None, None]


class SelfAttention(nn.Module):
    """Self-attention over pixels (Zhang et al. 2018, arXiv:1805.08318, equations 1 to 3).

    The residual branch is scaled by the learned `strength` (γ), which starts at 0.
    """

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
        attention = torch.softmax(query.transpose(1, 2) @ key, dim=-1)
        attended = (value @ attention.transpose(1, 2)).reshape(x.shape[0], -1, height, width)
        output: Tensor = x + self.strength * self.out(attended)
        return output


class ToImages(nn.Sequential):
    """The generator's output layer: features ``[N, D, H, W]`` to images ``[N, C, H, W]``."""

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
    """Maps images ``[N, C, H, W]`` and classes ``[N]`` to logits ``[N]``: positive means real.

    The output of `blocks`, with `width` channels, is summed over all pixels.
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
    """Normalize ``[N, C, H, W]``; `standing` ``[N, K]`` is passed to `StandingBatchNorm2d` only."""
    normalized: Tensor = norm(x) if standing is None else norm(x, standing)
    return normalized


def concat_label(z: Tensor, label: Tensor | None) -> Tensor:
    """Concatenate latents ``[N, D]`` and class embeddings ``[N, E]``, if there are any."""
    return z if label is None else torch.cat([z, label], dim=1)


def spectral_conv(fan_in: int, fan_out: int, kernel: int, *, bias: bool = True) -> nn.Module:
    """Build a spectrally normalized convolution with "same" padding."""
    return with_spectral_norm(nn.Conv2d(fan_in, fan_out, kernel, padding=kernel // 2, bias=bias))


def with_spectral_norm(layer: nn.Module) -> nn.Module:
    """Apply spectral normalization to a layer's weight (Miyato et al. 2018, arXiv:1802.05957)."""
    # Modules on the `meta` device have no values, and the initial power iteration takes seconds.
    if layer.get_parameter("weight").is_meta:
        return layer
    normalized: nn.Module = spectral_norm(layer)
    return normalized


def init_orthogonal(module: nn.Module) -> None:
    """Initialize a layer orthogonally (Saxe et al. 2013, arXiv:1312.6120); for `Module.apply`."""
    if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
        # Assigning a tensor goes through the parametrization of spectral normalization.
        weight = torch.empty_like(module.weight)
        nn.init.orthogonal_(weight)
        with torch.no_grad():
            module.weight = weight if hasattr(module, "parametrizations") else nn.Parameter(weight)
