"""Batch normalization, with gain and bias from a condition, and with standing statistics."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.networks.layers.spectral import with_spectral_norm


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


def apply_norm(norm: nn.Module, x: Tensor, standing: Tensor | None) -> Tensor:
    """Normalize ``[N, C, H, W]``; `standing` ``[N, K]`` is passed to `StandingBatchNorm2d` only."""
    normalized: Tensor = norm(x) if standing is None else norm(x, standing)
    return normalized
