"""Adaptive discriminator augmentation (Karras et al. 2020, arXiv:2006.06676)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal

from pydantic import Field, PositiveInt
from torch import Tensor

from training.augmentation.augment import Augment, AugmentOptions
from training.augmentation.colors import change_colors, transform_colors
from training.augmentation.geometry import transform_geometry

Policy = Literal["blitting", "geometry", "colour"]
ALL: tuple[Policy, ...] = ("blitting", "geometry", "colour")


class ADAOptions(AugmentOptions):
    """The transforms, and how their probability adapts."""

    kind: Literal["ada"]
    # Groups of transforms. Filters and corruptions, which the paper finds to help less, are left
    # out.
    policy: tuple[Policy, ...] = ALL
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
        return ada(images, self.probability, self._options.policy)

    def adapt(self, real_sign: float, images: int) -> None:
        """Adjust the probability (section 3).

        It rises while `real_sign` is above the target, which means that the discriminator overfits.
        """
        step = images / self._options.ramp_images
        probability = self.probability + math.copysign(step, real_sign - self._options.target)
        self.probability = min(max(probability, 0.0), self._options.limit)


def ada(images: Tensor, probability: float, policy: Sequence[Policy] = ALL) -> Tensor:
    """Apply each transform of ADA's pipeline to each image with `probability` (section 2.4)."""
    if probability <= 0:
        return images
    blitting, geometry = ("blitting" in policy), ("geometry" in policy)
    if blitting or geometry:
        images = transform_geometry(images, probability, blitting=blitting, geometry=geometry)
    if "colour" in policy:
        images = change_colors(images, partial(transform_colors, probability=probability))
    return images
