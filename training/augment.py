"""Differentiable augmentation of the discriminator's inputs, real and generated.

It keeps a discriminator from memorizing a small data set. Images are ``[N, C, H, W]`` in [-1, 1].
Each image is augmented independently, on its own device, with random numbers from PyTorch's global
state.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from training.recipe.options import Options

Policy = Literal["colour", "translation", "cutout"]


class AugmentOptions(Options, ABC):
    """The options of one kind of augmentation."""

    kind: str

    @abstractmethod
    def build(self) -> Augment:
        """Return the augmentation in its initial state."""


class Augment:
    """An augmentation of images ``[N, C, H, W]``; this one returns them unchanged."""

    # Probability of each transform; only ADA uses and adapts it.
    probability = 0.0
    # Whether the strength adapts during training.
    adapts = False

    def __call__(self, images: Tensor) -> Tensor:
        """Return the augmented images."""
        return images

    def adapt(self, real_sign: float, images: int) -> None:
        """Adapt to `real_sign`, r_t = E[sign(D(x))] over the last `images` real images."""


class DiffAugmentOptions(AugmentOptions):
    """DiffAugment (Zhao et al. 2020, arXiv:2006.10738), with constant strength."""

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


class ADAOptions(AugmentOptions):
    """Adaptive discriminator augmentation (Karras et al. 2020, arXiv:2006.06676)."""

    kind: Literal["ada"]
    # Target of the overfitting heuristic r_t = E[sign(D(x))] (equation 1).
    target: float = Field(default=0.6, gt=0, lt=1)
    # Number of images in which the probability can rise from 0 to 1.
    ramp_images: PositiveInt = 500_000
    start: float = Field(default=0.0, ge=0, le=1)
    limit: float = Field(default=0.85, gt=0, le=1)

    def build(self) -> ADA:
        """Return the augmentation with its initial probability."""
        return ADA(self)


class ADA(Augment):
    """Adaptive discriminator augmentation; `probability` is its current p."""

    adapts = True

    def __init__(self, options: ADAOptions) -> None:
        self._options = options
        self.probability = options.start

    def __call__(self, images: Tensor) -> Tensor:
        """Return the augmented images."""
        return ada(images, self.probability)

    def adapt(self, real_sign: float, images: int) -> None:
        """Adjust the probability (section 3).

        It rises while `real_sign` is above the target, which means that the discriminator overfits.
        """
        step = images / self._options.ramp_images
        probability = self.probability + math.copysign(step, real_sign - self._options.target)
        self.probability = min(max(probability, 0.0), self._options.limit)


def build_augment(options: AugmentOptions | None) -> Augment:
    """Build the augmentation that `game.augment` configures; None means no augmentation."""
    return options.build() if options else Augment()


def diff_augment(images: Tensor, policy: Sequence[Policy]) -> Tensor:
    """Apply DiffAugment's policies in order.

    `colour` jitters brightness, saturation and contrast, `translation` shifts by up to ⅛ of the
    side, and `cutout` sets a square of half the side to 0.
    """
    for name in policy:
        images = _POLICIES[name](images)
    return images


def ada(images: Tensor, probability: float) -> Tensor:
    """Apply each transform of ADA's pipeline to each image with `probability`.

    Pixel blitting, geometric and color transforms (section 2.4). Image-space filtering and
    corruptions are left out; the paper found that they help less.
    """
    if probability <= 0:
        return images
    return _transform_colors(_transform_geometry(images, probability), probability)


def _jitter_color(images: Tensor) -> Tensor:
    images = images + _uniform(images, -0.5, 0.5)
    gray = images.mean(1, keepdim=True)
    images = (images - gray) * _uniform(images, 0.0, 2.0) + gray
    mean = images.mean((1, 2, 3), keepdim=True)
    return (images - mean) * _uniform(images, 0.5, 1.5) + mean


def _translate(images: Tensor) -> Tensor:
    count, _, height, width = images.shape
    max_y, max_x = round(height / 8), round(width / 8)
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
    count, _, height, width = images.shape
    y = torch.randint(0, height + 1, (count, 1, 1), device=images.device)
    x = torch.randint(0, width + 1, (count, 1, 1), device=images.device)
    rows = torch.arange(height, device=images.device)[None, :, None]
    columns = torch.arange(width, device=images.device)[None, None, :]
    masked = ((rows - y).abs() < height / 4) & ((columns - x).abs() < width / 4)
    return images * ~masked[:, None]


_POLICIES: dict[Policy, Callable[[Tensor], Tensor]] = {
    "colour": _jitter_color,
    "translation": _translate,
    "cutout": _cut_out,
}


def _uniform(images: Tensor, low: float, high: float) -> Tensor:
    """Draw one value per image from U(low, high), ``[N, 1, 1, 1]``."""
    values = torch.rand(len(images), 1, 1, 1, dtype=images.dtype, device=images.device)
    return values * (high - low) + low


def _transform_geometry(images: Tensor, probability: float) -> Tensor:
    """Flip, rotate, scale, stretch and translate in one resampling, with reflected borders."""
    count, device = len(images), images.device
    matrix = torch.eye(3, device=device).repeat(count, 1, 1)

    def maybe(transform: Tensor) -> None:
        nonlocal matrix
        applied = torch.rand(count, 1, 1, device=device) < probability
        matrix = torch.where(applied, transform @ matrix, matrix)

    one, zero = torch.ones(count, device=device), torch.zeros(count, device=device)

    def symmetric() -> Tensor:
        return torch.rand(count, device=device) * 2 - 1

    def scaling(x: Tensor, y: Tensor) -> Tensor:
        return _matrices([[x, zero, zero], [zero, y, zero], [zero, zero, one]])

    def rotation(angle: Tensor) -> Tensor:
        sin, cos = angle.sin(), angle.cos()
        return _matrices([[cos, -sin, zero], [sin, cos, zero], [zero, zero, one]])

    def translation(x: Tensor, y: Tensor) -> Tensor:
        return _matrices([[one, zero, x], [zero, one, y], [zero, zero, one]])

    maybe(scaling(symmetric().sign(), one))
    maybe(rotation(torch.randint(0, 4, (count,), device=device) * (math.pi / 2)))
    # Image coordinates range from -1 to 1, so 0.25 is an eighth of the side.
    maybe(translation(symmetric() * 0.25, symmetric() * 0.25))
    scale = torch.exp2(torch.randn(count, device=device) * 0.2)
    maybe(scaling(scale, scale))
    maybe(rotation(symmetric() * math.pi))
    stretch = torch.exp2(torch.randn(count, device=device) * 0.2)
    maybe(scaling(stretch, 1 / stretch))
    maybe(translation(torch.randn(count, device=device) / 4, torch.randn(count, device=device) / 4))
    grid = F.affine_grid(matrix[:, :2].to(images.dtype), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _transform_colors(images: Tensor, probability: float) -> Tensor:
    """Change brightness and contrast; with three channels also luma, hue and saturation."""
    count, channels, device = len(images), images.shape[1], images.device

    def maybe(transformed: Tensor, original: Tensor) -> Tensor:
        applied = torch.rand(count, 1, 1, 1, device=device) < probability
        return torch.where(applied, transformed, original)

    images = maybe(images + torch.randn(count, 1, 1, 1, device=device) * 0.2, images)
    images = maybe(images * torch.exp2(torch.randn(count, 1, 1, 1, device=device) * 0.5), images)
    if channels != 3:
        return images
    # Luma flip: a reflection in the plane across the gray axis.
    flipped = torch.rand(count, 1, 1, 1, device=device) < 0.5
    images = maybe(images - 2 * images.mean(1, keepdim=True) * flipped, images)
    images = maybe(_rotate_hue(images), images)
    gray = images.mean(1, keepdim=True)
    saturation = torch.exp2(torch.randn(count, 1, 1, 1, device=device))
    return maybe(gray + (images - gray) * saturation, images)


def _rotate_hue(images: Tensor) -> Tensor:
    """Rotate colors about the gray axis (1, 1, 1) by a random angle (Rodrigues' formula)."""
    angle = (torch.rand(len(images), 1, 1, 1, device=images.device) * 2 - 1) * math.pi
    parallel = images.mean(1, keepdim=True)
    # The cross product of the axis (1, 1, 1)/√3 with the color.
    cross = (images.roll(1, 1) - images.roll(-1, 1)) / math.sqrt(3)
    return images * angle.cos() + cross * angle.sin() + parallel * (1 - angle.cos())


def _matrices(rows: Sequence[Sequence[Tensor]]) -> Tensor:
    """Stack 3×3 entries ``[N]`` into matrices ``[N, 3, 3]``."""
    return torch.stack([torch.stack(list(row), -1) for row in rows], -2)
