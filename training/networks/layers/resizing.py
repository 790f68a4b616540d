"""Antialiased resizing by matrix products, with equal results in training and exported graphs.

Follows Pillow: when downscaling, the filter is widened by the scale factor.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Filter = Literal["linear", "cubic"]


def resize(images: Tensor, height: int, width: int, kind: Filter = "linear") -> Tensor:
    """Resize float images ``[N, C, H, W]`` to ``[N, C, height, width]``."""
    rows = resize_matrix(images.shape[2], height, kind, images.device)
    columns = resize_matrix(images.shape[3], width, kind, images.device)
    horizontal = torch.matmul(images, columns.t())
    return torch.matmul(horizontal.transpose(2, 3), rows.t()).transpose(2, 3)


def resize_matrix(in_size: int, out_size: int, kind: Filter, device: torch.device) -> Tensor:
    """Return the resizing weights ``[out_size, in_size]`` of one axis. Each row sums to 1."""
    scale = in_size / out_size
    # Width of the filter in input pixels.
    support = scale if scale > 1 else 1.0
    centers = (torch.arange(out_size, device=device, dtype=torch.float32) + 0.5) * scale
    pixels = torch.arange(in_size, device=device, dtype=torch.float32) + 0.5
    distance = (pixels[None] - centers[:, None]).abs() / support
    weights = _linear(distance) if kind == "linear" else _cubic(distance)
    return weights / weights.sum(1, keepdim=True)


def _linear(distance: Tensor) -> Tensor:
    return (1 - distance).clamp(min=0)


def _cubic(distance: Tensor) -> Tensor:
    """Keys' cubic filter with a = -0.5, as in Pillow (doi:10.1109/TASSP.1981.1163711)."""
    near = (1.5 * distance - 2.5) * distance.square() + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    outside = torch.zeros_like(distance)
    return torch.where(distance < 1, near, torch.where(distance < 2, far, outside))
