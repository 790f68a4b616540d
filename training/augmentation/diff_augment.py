"""DiffAugment (Zhao et al. 2020, arXiv:2006.10738), as its official implementation rounds it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from training.augmentation.augment import Augment, AugmentOptions
from training.augmentation.colors import change_colors

Policy = Literal["colour", "translation", "cutout"]


class DiffAugmentOptions(AugmentOptions):
    """DiffAugment, with constant strength."""

    kind: Literal["diffaugment"]
    policy: tuple[Policy, ...] = ("colour", "translation", "cutout")

    def build(self) -> DiffAugment:
        """Return the augmentation."""
        return DiffAugment(self)


class DiffAugment(Augment):
    """DiffAugment with the policies of its options."""

    def __init__(self, options: DiffAugmentOptions) -> None:
        self._policy = options.policy

    def __call__(self, images: Tensor) -> Tensor:
        """Return the augmented images."""
        return diff_augment(images, self._policy)


def diff_augment(images: Tensor, policy: Sequence[Policy]) -> Tensor:
    """Apply DiffAugment's policies in order.

    `colour` jitters brightness, saturation and contrast, but not alpha; `translation` shifts by up
    to ⅛ of the side, and `cutout` sets a square of half the side to 0. Both extents are rounded to
    the nearest number of pixels, halves up.
    """
    for name in policy:
        images = _POLICIES[name](images)
    return images


def _jitter_color(images: Tensor) -> Tensor:
    images = images + _uniform(images, -0.5, 0.5)
    gray = images.mean(1, keepdim=True)
    images = (images - gray) * _uniform(images, 0.0, 2.0) + gray
    mean = images.mean((1, 2, 3), keepdim=True)
    return (images - mean) * _uniform(images, 0.5, 1.5) + mean


def _translate(images: Tensor) -> Tensor:
    count, _, height, width = images.shape
    max_y, max_x = _rounded(height / 8), _rounded(width / 8)
    shift_y = torch.randint(-max_y, max_y + 1, (count, 1, 1), device=images.device)
    shift_x = torch.randint(-max_x, max_x + 1, (count, 1, 1), device=images.device)
    rows = torch.arange(height, device=images.device)[None, :, None] + shift_y
    columns = torch.arange(width, device=images.device)[None, None, :] + shift_x
    # The border of one zero pixel replaces everything outside the image.
    rows = (rows + 1).clamp(0, height + 1)
    columns = (columns + 1).clamp(0, width + 1)
    padded = F.pad(images, (1, 1, 1, 1)).permute(0, 2, 3, 1)
    index = torch.arange(count, device=images.device)[:, None, None]
    return padded[index, rows, columns].permute(0, 3, 1, 2)


def _cut_out(images: Tensor) -> Tensor:
    _, _, height, width = images.shape
    masked = _cut(images, height)[:, :, None] & _cut(images, width)[:, None, :]
    return images * ~masked[:, None]


def _cut(images: Tensor, side: int) -> Tensor:
    """Return which of the pixels of one side are cut out of each image, ``[N, side]``.

    The square may reach beyond the border of the image.
    """
    size = _rounded(side / 2)
    center = torch.randint(0, side + 1 - size % 2, (len(images), 1), device=images.device)
    offset = torch.arange(side, device=images.device) - center + size // 2
    return (offset >= 0) & (offset < size)


def _rounded(value: float) -> int:
    return int(value + 0.5)


def _uniform(images: Tensor, low: float, high: float) -> Tensor:
    """Draw one value per image from U(low, high), ``[N, 1, 1, 1]``."""
    values = torch.rand(len(images), 1, 1, 1, dtype=images.dtype, device=images.device)
    return values * (high - low) + low


_POLICIES: dict[Policy, Callable[[Tensor], Tensor]] = {
    "colour": lambda images: change_colors(images, _jitter_color),
    "translation": _translate,
    "cutout": _cut_out,
}
