"""Layers shared by BigGAN and BigGAN-deep."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.networks.layers.batch_norm import BatchNorm2d, apply_norm
from training.networks.layers.conditioning import Conditioning, LabelProjection
from training.networks.layers.spectral import spectral_conv, with_spectral_norm

# Side of the smallest feature maps, in pixels.
BASE = 4


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


def init_orthogonal(module: nn.Module) -> None:
    """Initialize a layer orthogonally (Saxe et al. 2013, arXiv:1312.6120); for `Module.apply`."""
    if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
        # Assigning a tensor goes through the parametrization of spectral normalization.
        weight = torch.empty_like(module.weight)
        nn.init.orthogonal_(weight)
        with torch.no_grad():
            module.weight = weight if hasattr(module, "parametrizations") else nn.Parameter(weight)
