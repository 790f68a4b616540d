"""Augmentation of what the discriminator sees: differentiable, and on the batch's device.

Both players meet the same random changes, of real and of generated pictures alike, so that a small
set does not let the discriminator learn its pictures by heart. Pictures are ``[N, C, H, W]`` in
[-1, 1]; every one is changed by draws of its own from the global random state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from training.recipe.options import Options

Policy = Literal["colour", "translation", "cutout"]


class DiffAugmentOptions(Options):
    """DiffAugment (Zhao et al. 2020, arXiv:2006.10738): the same strength throughout."""

    kind: Literal["diffaugment"]
    policy: tuple[Policy, ...] = ("colour", "translation", "cutout")


class ADAOptions(Options):
    """Adaptive discriminator augmentation (Karras et al. 2020, arXiv:2006.06676)."""

    kind: Literal["ada"]
    # The share of real pictures that the discriminator should be sure of, as E[sign(D(x))].
    target: float = Field(default=0.6, gt=0, lt=1)
    # Images over which the probability may go from 0 to 1.
    ramp_images: PositiveInt = 500_000
    start: float = Field(default=0.0, ge=0, le=1)
    limit: float = Field(default=0.85, gt=0, le=1)


AugmentOptions = Annotated[DiffAugmentOptions | ADAOptions, Field(discriminator="kind")]


class Augment:
    """What a recipe's `augment` does to pictures. `probability` is ADA's, and adapts."""

    def __init__(self, options: DiffAugmentOptions | ADAOptions | None) -> None:
        self._options = options
        self.probability = options.start if isinstance(options, ADAOptions) else 0.0

    def __call__(self, images: Tensor) -> Tensor:
        """Return the pictures changed, or as they are without options."""
        match self._options:
            case DiffAugmentOptions(policy=policy):
                return diff_augment(images, policy)
            case ADAOptions():
                return ada(images, self.probability)
            case _:
                return images

    def adapt(self, real_sign: float, images: int) -> None:
        """Take `real_sign`, E[sign(D(x))] over the last `images`, and move towards the target.

        Section 3 of arXiv:2006.06676: above the target the discriminator overfits.
        """
        if isinstance(self._options, ADAOptions):
            step = images / self._options.ramp_images
            moved = self.probability + math.copysign(step, real_sign - self._options.target)
            self.probability = min(max(moved, 0.0), self._options.limit)

    @property
    def adapts(self) -> bool:
        """Whether `adapt` does anything."""
        return isinstance(self._options, ADAOptions)


def diff_augment(images: Tensor, policy: Sequence[Policy]) -> Tensor:
    """Change brightness, saturation and contrast; shift by up to ⅛; cut out a quarter."""
    for name in policy:
        images = _POLICIES[name](images)
    return images


def ada(images: Tensor, probability: float) -> Tensor:
    """Apply each change of ADA's pipeline to each picture with `probability`.

    Pixel blitting, geometry and colour of section 2.4; without the image-space filters and
    corruptions, which the paper found to help less.
    """
    if probability <= 0:
        return images
    return _recolour(_move(images, probability), probability)


def _colour(images: Tensor) -> Tensor:
    images = images + _uniform(images, -0.5, 0.5)
    grey = images.mean(1, keepdim=True)
    images = (images - grey) * _uniform(images, 0.0, 2.0) + grey
    mean = images.mean((1, 2, 3), keepdim=True)
    return (images - mean) * _uniform(images, 0.5, 1.5) + mean


def _translation(images: Tensor) -> Tensor:
    count, _, height, width = images.shape
    reach_y, reach_x = round(height / 8), round(width / 8)
    shift_y = torch.randint(-reach_y, reach_y + 1, (count, 1, 1), device=images.device)
    shift_x = torch.randint(-reach_x, reach_x + 1, (count, 1, 1), device=images.device)
    rows = torch.arange(height, device=images.device)[None, :, None] + shift_y
    columns = torch.arange(width, device=images.device)[None, None, :] + shift_x
    # One row and column of zeros around the picture stands for all that lies beyond it.
    rows = (rows + 1).clamp(0, height + 1)
    columns = (columns + 1).clamp(0, width + 1)
    padded = F.pad(images, (1, 1, 1, 1)).permute(0, 2, 3, 1)
    which = torch.arange(count, device=images.device)[:, None, None]
    return padded[which, rows, columns].permute(0, 3, 1, 2)


def _cutout(images: Tensor) -> Tensor:
    count, _, height, width = images.shape
    y = torch.randint(0, height + 1, (count, 1, 1), device=images.device)
    x = torch.randint(0, width + 1, (count, 1, 1), device=images.device)
    rows = torch.arange(height, device=images.device)[None, :, None]
    columns = torch.arange(width, device=images.device)[None, None, :]
    hole = ((rows - y).abs() < height / 4) & ((columns - x).abs() < width / 4)
    return images * ~hole[:, None]


_POLICIES: dict[Policy, Callable[[Tensor], Tensor]] = {
    "colour": _colour,
    "translation": _translation,
    "cutout": _cutout,
}


def _uniform(images: Tensor, low: float, high: float) -> Tensor:
    """Return one value for each picture, ``[N, 1, 1, 1]``."""
    values = torch.rand(len(images), 1, 1, 1, dtype=images.dtype, device=images.device)
    return values * (high - low) + low


def _move(images: Tensor, probability: float) -> Tensor:
    """Flip, turn, scale, stretch and shift, all in one resampling with reflected borders."""
    count, device = len(images), images.device
    matrix = torch.eye(3, device=device).repeat(count, 1, 1)

    def some(changed: Tensor) -> None:
        nonlocal matrix
        chosen = torch.rand(count, 1, 1, device=device) < probability
        matrix = torch.where(chosen, changed @ matrix, matrix)

    one, zero = torch.ones(count, device=device), torch.zeros(count, device=device)

    def drawn() -> Tensor:
        return torch.rand(count, device=device) * 2 - 1

    def scaled(x: Tensor, y: Tensor) -> Tensor:
        return _matrices([[x, zero, zero], [zero, y, zero], [zero, zero, one]])

    def turned(angle: Tensor) -> Tensor:
        sin, cos = angle.sin(), angle.cos()
        return _matrices([[cos, -sin, zero], [sin, cos, zero], [zero, zero, one]])

    def shifted(x: Tensor, y: Tensor) -> Tensor:
        return _matrices([[one, zero, x], [zero, one, y], [zero, zero, one]])

    some(scaled(drawn().sign(), one))
    some(turned(torch.randint(0, 4, (count,), device=device) * (math.pi / 2)))
    # A picture is 2 wide in these coordinates.
    some(shifted(drawn() * 0.25, drawn() * 0.25))
    scale = torch.exp2(torch.randn(count, device=device) * 0.2)
    some(scaled(scale, scale))
    some(turned(drawn() * math.pi))
    stretch = torch.exp2(torch.randn(count, device=device) * 0.2)
    some(scaled(stretch, 1 / stretch))
    some(shifted(torch.randn(count, device=device) / 4, torch.randn(count, device=device) / 4))
    grid = F.affine_grid(matrix[:, :2].to(images.dtype), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _recolour(images: Tensor, probability: float) -> Tensor:
    """Change brightness, contrast, and of three channels luma, hue and saturation."""
    count, channels, device = len(images), images.shape[1], images.device

    def some(changed: Tensor, as_it_was: Tensor) -> Tensor:
        chosen = torch.rand(count, 1, 1, 1, device=device) < probability
        return torch.where(chosen, changed, as_it_was)

    images = some(images + torch.randn(count, 1, 1, 1, device=device) * 0.2, images)
    images = some(images * torch.exp2(torch.randn(count, 1, 1, 1, device=device) * 0.5), images)
    if channels != 3:
        return images
    # Luma flip: a reflection in the plane across the grey axis.
    flipped = torch.rand(count, 1, 1, 1, device=device) < 0.5
    images = some(images - 2 * images.mean(1, keepdim=True) * flipped, images)
    images = some(_turn_hue(images), images)
    grey = images.mean(1, keepdim=True)
    saturation = torch.exp2(torch.randn(count, 1, 1, 1, device=device))
    return some(grey + (images - grey) * saturation, images)


def _turn_hue(images: Tensor) -> Tensor:
    """Rotate the colours about the grey axis (1, 1, 1), by Rodrigues' formula."""
    angle = (torch.rand(len(images), 1, 1, 1, device=images.device) * 2 - 1) * math.pi
    along = images.mean(1, keepdim=True)
    # The cross product of the axis (1, 1, 1)/√3 with the colour.
    across = (images.roll(1, 1) - images.roll(-1, 1)) / math.sqrt(3)
    return images * angle.cos() + across * angle.sin() + along * (1 - angle.cos())


def _matrices(rows: Sequence[Sequence[Tensor]]) -> Tensor:
    """Stack entries ``[N]`` into matrices ``[N, 3, 3]``."""
    return torch.stack([torch.stack(list(row), -1) for row in rows], -2)
