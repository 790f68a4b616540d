"""Pictures in other sizes, by matrices: the same numbers in training and in an exported graph.

As Pillow resizes: the filter is widened where a picture gets smaller, so that nothing is skipped.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Filter = Literal["linear", "cubic"]


def resize(images: Tensor, height: int, width: int, kind: Filter = "linear") -> Tensor:
    """Return pictures ``[N, C, H, W]`` of float numbers in another size."""
    rows = resize_matrix(images.shape[2], height, kind, images.device)
    columns = resize_matrix(images.shape[3], width, kind, images.device)
    across = torch.matmul(images, columns.t())
    return torch.matmul(across.transpose(2, 3), rows.t()).transpose(2, 3)


def resize_matrix(before: int, after: int, kind: Filter, device: torch.device) -> Tensor:
    """Return the shares ``[after, before]`` of old pixels in new ones; rows sum to 1."""
    scale = before / after
    # How wide the filter is in old pixels.
    wide = scale if scale > 1 else 1.0
    centres = (torch.arange(after, device=device, dtype=torch.float32) + 0.5) * scale
    pixels = torch.arange(before, device=device, dtype=torch.float32) + 0.5
    apart = (pixels[None] - centres[:, None]).abs() / wide
    weights = _linear(apart) if kind == "linear" else _cubic(apart)
    return weights / weights.sum(1, keepdim=True)


def _linear(apart: Tensor) -> Tensor:
    return (1 - apart).clamp(min=0)


def _cubic(apart: Tensor) -> Tensor:
    """Keys' filter with a = -0.5, as Pillow has it (doi:10.1109/TASSP.1981.1163711)."""
    near = (1.5 * apart - 2.5) * apart.square() + 1
    far = ((-0.5 * apart + 2.5) * apart - 4) * apart + 2
    return torch.where(apart < 1, near, torch.where(apart < 2, far, torch.zeros_like(apart)))
