"""Layers that append batch statistics to a discriminator's features, against mode collapse."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

MinibatchKind = Literal["none", "discrimination", "standard_deviation"]


class MinibatchDiscrimination(nn.Module):
    """Appends each row's similarity to the rest of the batch: ``[N, D]`` to ``[N, D + kernels]``.

    Salimans et al. 2016, arXiv:1606.03498, section 3.2: a learned tensor maps rows to matrices,
    and exp(-L1 distance) between matrix rows is summed over the batch.
    """

    def __init__(self, features: int, kernels: int = 32, kernel_dim: int = 8) -> None:
        super().__init__()
        self.kernels, self.kernel_dim = kernels, kernel_dim
        self.project = nn.Linear(features, kernels * kernel_dim, bias=False)
        self.added = kernels

    def forward(self, features: Tensor) -> Tensor:
        matrices = self.project(features).unflatten(1, (self.kernels, self.kernel_dim))
        distances = (matrices[:, None] - matrices[None, :]).abs().sum(-1)
        # Subtract each row's similarity to itself, which is 1.
        similarity = torch.exp(-distances).sum(1) - 1
        return torch.cat([features, similarity], dim=1)


class MinibatchStandardDeviation(nn.Module):
    """Appends the standard deviation within a group as a channel: ``[N, C + 1, H, W]``.

    Karras et al. 2017, arXiv:1710.10196, section 3: the standard deviation over each group of
    `group` images, averaged over channels and pixels. If the batch size is not a multiple of
    `group`, the batch is one group.
    """

    def __init__(self, group: int = 4) -> None:
        super().__init__()
        self.group = group
        self.added = 1

    def forward(self, images: Tensor) -> Tensor:
        count, channels, height, width = images.shape
        group = self.group if count % self.group == 0 else count
        grouped = images.reshape(group, -1, channels, height, width).float()
        deviation = (grouped.var(0, correction=0) + 1e-8).sqrt().mean((1, 2, 3))
        plane = deviation.repeat(group).reshape(-1, 1, 1, 1).expand(-1, 1, height, width)
        return torch.cat([images, plane.to(images.dtype)], dim=1)
