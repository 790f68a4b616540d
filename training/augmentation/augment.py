"""What every augmentation has: options that build it, a call, and an adaptive strength."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from training.recipe.options import Options


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


def build_augment(options: AugmentOptions | None) -> Augment:
    """Build the augmentation that `game.augment` configures; None means no augmentation."""
    return options.build() if options else Augment()
