"""What a recipe says of the games from picture to picture."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    StringConstraints,
    model_validator,
)

from service.runtime.models.manifest import SLUG
from training.games.tasks import ImageTask, TaskOptions
from training.games.tasks.translate import PairsOptions
from training.losses import SMOOTHABLE, LossName
from training.recipe.options import Options

DirectionName = Annotated[str, StringConstraints(pattern=SLUG.pattern)]


class ImageGameOptions(Options):
    """What the games from picture to picture have in common."""

    loss: LossName = "non_saturating"
    # Below 1: one-sided label smoothing, for the losses that have a target for real pictures.
    real_target: float = Field(default=1.0, gt=0.5, le=1)
    # Gradients of either player are scaled down to this norm.
    clip_gradients: PositiveFloat | None = None

    @property
    def batches_per_turn(self) -> int:
        """How many batches of pictures one turn takes."""
        return 1

    @model_validator(mode="after")
    def _smoothing_fits_the_loss(self) -> ImageGameOptions:
        if self.real_target != 1 and self.loss not in SMOOTHABLE:
            losses = ", ".join(sorted(SMOOTHABLE))
            raise ValueError(f"real_target is for {losses}; {self.loss} has no target")
        return self


class PairedOptions(ImageGameOptions):
    """The game of pix2pix: from a picture to the one that belongs to it.

    Isola et al. 2017, arXiv:1611.07004. What the generator descends is the weighted sum of its
    adversarial loss and of how far it is from the true picture.
    """

    kind: Literal["paired"]
    task: TaskOptions
    # Weights of what the generator descends: equation 4 of the paper has 1 and 100.
    adversarial: NonNegativeFloat = 1.0
    l1: NonNegativeFloat = 100.0
    # Weight of the distance of features of EfficientNet-Lite0, where the generator is not alone.
    features: NonNegativeFloat = 0.0
    # Whether the discriminator sees what was given beside what was made of it.
    conditional: bool = True
    # So many images are played without a discriminator, for a generator that begins somewhere.
    alone_images: NonNegativeInt = 0
    # Weight of R1 on real pictures (arXiv:1801.04406).
    r1: NonNegativeFloat = 0.0

    # What can choose the best checkpoint, what does where nothing is said first.
    metrics: ClassVar[tuple[str, ...]] = ("feature_distance", "psnr", "ssim")

    @property
    def directions(self) -> tuple[str, ...]:
        """None: there is one way."""
        return ()


class UnpairedOptions(ImageGameOptions):
    """The game of CycleGAN: two sets of pictures, and a generator from each to the other.

    Zhu et al. 2017, arXiv:1703.10593. What the generators descend is the weighted sum of their
    adversarial losses and of how far pictures are from themselves when they come back.
    """

    kind: Literal["unpaired"]
    loss: LossName = "least_squares"
    # What the way from `source` to `data` is called, and the way back.
    directions: tuple[DirectionName, DirectionName] = ("there", "back")
    # Equation 3 of the paper has 10, and section 5.2 half of that, beside a loss twice as large as
    # least_squares is here.
    cycle: PositiveFloat = 5.0
    identity: NonNegativeFloat = 2.5
    # How many earlier pictures of each side the discriminators may be shown again.
    history: PositiveInt = 50
    # What can choose the best checkpoint, what does where nothing is said first.
    metrics: ClassVar[tuple[str, ...]] = ("kernel_distance", "frechet_distance")

    @property
    def task(self) -> ImageTask:
        """From pictures of the one set to the other's."""
        return PairsOptions(kind="pairs")

    @property
    def conditional(self) -> bool:
        """A discriminator sees one picture: there is none that it belongs to."""
        return False
