"""Options of the game of CycleGAN."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt, StringConstraints

from service.runtime.models.parts.part import SLUG
from training.evaluation.during_training import EvaluateOptions
from training.evaluation.metrics import selectable_metrics
from training.games.image_options import ImageGameOptions
from training.games.tasks.task import ImageTask
from training.games.tasks.translate import PairsOptions
from training.losses import LossName
from training.networks.image.cycle import CycleGenerators

if TYPE_CHECKING:
    import torch

    from training.data.images import ImageData, Progress
    from training.device import Precision
    from training.distributed import DistributedContext
    from training.games.unpaired.setup import UnpairedSetup
    from training.games.unpaired.validation import UnpairedValidation
    from training.recipe.schema import Recipe

DirectionName = Annotated[str, StringConstraints(pattern=SLUG.pattern)]


class UnpairedOptions(ImageGameOptions):
    """The game of CycleGAN, which trains on two unpaired sets of images.

    Zhu et al. 2017, arXiv:1703.10593. The generators' objective is a weighted sum of their
    adversarial, cycle and identity losses.
    """

    kind: Literal["unpaired"]
    loss: LossName = "least_squares"
    # The names of the two directions: from `source` to `data`, and from `data` to `source`.
    directions: tuple[DirectionName, DirectionName] = ("there", "back")
    # Weights of the cycle and identity losses. They are 10 (equation 3) and 5 (section 5.2) in the
    # paper, but its adversarial loss is twice as large as `least_squares` here.
    cycle: PositiveFloat = 5.0
    identity: NonNegativeFloat = 2.5
    # Number of generated images in the buffer of each discriminator (section 4).
    history: PositiveInt = 50

    @property
    def metrics(self) -> tuple[str, ...]:
        return selectable_metrics("features", default="kernel_distance")

    def direction_names(self) -> tuple[str, ...]:
        """Return the names of the directions."""
        return self.directions

    def image_task(self) -> ImageTask:
        """Return the task that translates between two sets of images."""
        return PairsOptions(kind="pairs")

    def build_generator(self, recipe: Recipe) -> CycleGenerators:
        """Build a generator for each direction."""
        return CycleGenerators(
            {name: super(UnpairedOptions, self).build_generator(recipe) for name in self.directions}
        )

    def prepare_data(self, recipe: Recipe, progress: Progress | None = None) -> ImageData:
        """Decode both sets of images and the examples."""
        from training.data.images import load_images  # noqa: PLC0415 - not to read a recipe
        from training.data.pairs import unpaired_examples  # noqa: PLC0415

        data = load_images(recipe.data, progress)
        load_images(recipe.required_source, progress)
        unpaired_examples(recipe)
        return data

    def set_up(
        self,
        recipe: Recipe,
        data: ImageData,
        device: torch.device,
        precision: Precision,
        distributed: DistributedContext,
    ) -> UnpairedSetup:
        """Build the players and their data. Raises DataError."""
        from training.games.unpaired.setup import UnpairedSetup  # noqa: PLC0415

        return UnpairedSetup(recipe, self, data, device, precision, distributed)

    def validation(
        self, recipe: Recipe, options: EvaluateOptions, *, confirms: bool = False
    ) -> UnpairedValidation:
        """Return the validation of this recipe. Raises QualityError, DataError."""
        from training.games.unpaired.validation import (  # noqa: PLC0415 - the extra `quality`
            UnpairedValidation,
        )

        return UnpairedValidation(recipe, options, confirms=confirms)
