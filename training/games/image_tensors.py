"""Conversion of uint8 images to the tensors that networks take."""

from __future__ import annotations

import torch
from torch import Tensor

from training.games.tasks.task import TaskInputs


def image_tensor(pixels: Tensor) -> Tensor:
    """Convert ``[N, C, H, W] uint8`` to float32 in [-1, 1]."""
    images = pixels.float().div_(127.5).sub_(1)
    return images.contiguous(memory_format=torch.channels_last)


def input_tensors(inputs: TaskInputs) -> tuple[Tensor, Tensor | None]:
    """Return the images in [-1, 1], and the masks as 0 and 1 (None without masks)."""
    mask = None if inputs.mask is None else (inputs.mask > 127).float()
    return image_tensor(inputs.image), mask
