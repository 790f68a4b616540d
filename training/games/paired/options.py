"""Options of the game of pix2pix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import NonNegativeFloat, NonNegativeInt

from training.evaluation.during_training import EvaluateOptions
from training.evaluation.metrics import selectable_metrics
from training.games.image_options import ImageGameOptions
from training.games.tasks.registry import Task, register_tasks
from training.games.tasks.task import ImageTask
from training.networks.pretrained.perceptual import PERCEPTUAL_NETWORK

if TYPE_CHECKING:
    import torch

    from training.data.images import ImageData, Progress
    from training.device import Precision
    from training.distributed import DistributedContext
    from training.games.paired.setup import PairedSetup
    from training.games.paired.validation import PairedValidation
    from training.recipe.schema import Recipe

# The schema of the field `task` is built with the class and needs all tasks.
register_tasks()


class PairedOptions(ImageGameOptions):
    """The game of pix2pix, which trains on pairs of an input and a target image.

    Isola et al. 2017, arXiv:1611.07004. The generator's objective is a weighted sum of its
    adversarial loss and its distances to the target.
    """

    kind: Literal["paired"]
    task: Task
    # Weights of the generator's objective; 1 and 100 in the paper (equation 4).
    adversarial: NonNegativeFloat = 1.0
    l1: NonNegativeFloat = 100.0
    # Weight of the distance of EfficientNet-Lite0 features; 0 while the generator trains alone.
    features: NonNegativeFloat = 0.0
    # Whether the discriminator gets the input together with the output.
    conditional: bool = True
    # Number of images for which the generator is first trained without a discriminator.
    alone_images: NonNegativeInt = 0
    # Weight of R1 on real images (arXiv:1801.04406).
    r1: NonNegativeFloat = 0.0

    @property
    def pretrained(self) -> tuple[str, ...]:
        return (PERCEPTUAL_NETWORK,) if self.features else ()

    @property
    def metrics(self) -> tuple[str, ...]:
        return selectable_metrics("pairs", default="feature_distance")

    def cost_changes(self, recipe: Recipe) -> tuple[int, ...]:  # noqa: ARG002
        """Return the images seen at which the discriminator joins the training."""
        return (self.alone_images,) if self.alone_images else ()

    def discriminator_sees_input(self) -> bool:
        """Return whether the discriminator also gets the input image."""
        return self.conditional

    def check(self, recipe: Recipe) -> None:
        """Raise ValueError unless the other sections of the recipe fit the game."""
        super().check(recipe)
        if self.alone_images and recipe.fine_tune and recipe.fine_tune.freeze_generator_images:
            raise ValueError(
                "game.alone_images trains the generator alone, and "
                "fine_tune.freeze_generator_images freezes it: use one of them"
            )

    def image_task(self) -> ImageTask:
        """Return the task."""
        return self.task

    def prepare_data(self, recipe: Recipe, progress: Progress | None = None) -> ImageData:
        """Decode the images of `recipe.data` and `recipe.source`, and the example pairs."""
        from training.data.images import load_images  # noqa: PLC0415 - not to read a recipe
        from training.data.pairs import example_pairs  # noqa: PLC0415

        data = load_images(recipe.data, progress)
        if recipe.source:
            load_images(recipe.source, progress)
        example_pairs(recipe)
        return data

    def set_up(
        self,
        recipe: Recipe,
        data: ImageData,
        device: torch.device,
        precision: Precision,
        distributed: DistributedContext,
    ) -> PairedSetup:
        """Build the players and their data. Raises DataError."""
        from training.games.paired.setup import PairedSetup  # noqa: PLC0415

        return PairedSetup(recipe, self, data, device, precision, distributed)

    def validation(
        self, recipe: Recipe, options: EvaluateOptions, *, confirms: bool = False
    ) -> PairedValidation:
        """Return the validation of this recipe. Raises QualityError, DataError."""
        from training.games.paired.validation import (  # noqa: PLC0415 - the extra `quality`
            PairedValidation,
        )

        return PairedValidation(recipe, options, confirms=confirms)
