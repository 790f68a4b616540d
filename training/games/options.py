"""The interface of games: their options in a recipe, their setup, validation and export.

The rest of the training code uses this interface and never checks which game a recipe has. A game
is a subclass of `GameOptions` with a ``kind: Literal["name"]`` field, declared in a module
`options.py` of a package in `training/games`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, PositiveFloat, model_validator

from service.runtime.models.parts.outputs import ImageSpec, OutputSpec
from training.evaluation.during_training import EvaluateOptions
from training.losses import SMOOTHABLE, LossName
from training.recipe.options import Options

if TYPE_CHECKING:
    import torch
    from torch import nn

    from service.runtime.models.model import Model
    from service.runtime.models.parts.inputs import ImageInput, TextInput
    from service.runtime.models.parts.latent import LatentSpace
    from service.runtime.models.parts.tasks import Task
    from training.data.dataset import Dataset
    from training.data.images import Progress
    from training.device import Precision
    from training.distributed import DistributedContext
    from training.export.graphs import GraphSpec
    from training.export.preview import Preview
    from training.games.game import GameSetup, Validation
    from training.games.tasks.task import ImageTask
    from training.recipe.schema import Recipe


class GameOptions(Options, ABC):
    """The section `game` of a recipe."""

    # True for a game on sounds, whose recipes have a section `data.sound`.
    takes_sounds: ClassVar[bool] = False

    kind: str
    loss: LossName = "non_saturating"
    # A value below 1 enables one-sided label smoothing, for losses with a target for real images.
    real_target: float = Field(default=1.0, gt=0.5, le=1)
    # The maximum norm of each player's gradient; larger gradients are scaled down.
    clip_gradients: PositiveFloat | None = None

    @model_validator(mode="after")
    def _smoothing_fits_the_loss(self) -> GameOptions:
        if self.real_target != 1 and self.loss not in SMOOTHABLE:
            losses = ", ".join(sorted(SMOOTHABLE))
            raise ValueError(f"real_target applies to {losses} only; {self.loss} has no target")
        return self

    @property
    @abstractmethod
    def metrics(self) -> tuple[str, ...]:
        """The metrics that can select the best checkpoint. The first one is the default."""

    @property
    def pretrained(self) -> tuple[str, ...]:
        """The pretrained networks whose features the losses use, for the manifest."""
        return ()

    @property
    def batches_per_turn(self) -> int:
        """Number of batches of real images in one turn."""
        return 1

    @property
    def turns_in_period(self) -> int:
        """Number of turns after which steps of different cost repeat; 1 if all turns are equal."""
        return 1

    def lazy_interval(self, player: str) -> int:  # noqa: ARG002
        """Return after how many steps `player` takes one more for its penalties alone.

        1 means that penalties, if any, belong to every step.
        """
        return 1

    def cost_changes(self, recipe: Recipe) -> tuple[int, ...]:  # noqa: ARG002
        """Return the images seen at which turns begin to cost more or less, in order."""
        return ()

    @abstractmethod
    def check(self, recipe: Recipe) -> None:
        """Raise ValueError unless the other sections of the recipe fit the game."""

    @abstractmethod
    def build_generator(self, recipe: Recipe) -> nn.Module:
        """Build the generator with new weights from the global random state."""

    @abstractmethod
    def build_discriminator(self, recipe: Recipe) -> nn.Module:
        """Build the discriminator with new weights from the global random state."""

    @abstractmethod
    def prepare_data(self, recipe: Recipe, progress: Progress | None = None) -> Dataset:
        """Decode all data that the game needs, and return those of `recipe.data`.

        Raises DataError.
        """

    @abstractmethod
    def set_up(
        self,
        recipe: Recipe,
        data: Any,
        device: torch.device,
        precision: Precision,
        distributed: DistributedContext,
    ) -> GameSetup:
        """Build the players on the `data` of `prepare_data`. Raises RecipeError, DataError."""

    @abstractmethod
    def validation(
        self, recipe: Recipe, options: EvaluateOptions, *, confirms: bool = False
    ) -> Validation:
        """Return the validation that measures generators of this recipe.

        If `confirms`, use images that the recipe's own validation does not use, so that they did
        not influence the selection of a checkpoint. Raises QualityError, DataError.
        """

    def image_task(self) -> ImageTask:
        """Return the image-to-image task. Raises ValueError for a game without input images."""
        raise ValueError(f"the game {self.kind} has no input images")

    def image_input(self, recipe: Recipe) -> ImageInput | None:  # noqa: ARG002
        """Return the manifest's description of input images, or None for a game without them."""
        return None

    def latent_space(self, recipe: Recipe, *, truncates: bool) -> LatentSpace | None:  # noqa: ARG002
        """Return the manifest's description of latents, or None for a game without them."""
        return None

    def text_input(self) -> TextInput | None:
        """Return the manifest's description of text embeddings, or None for a game without them.

        Raises TextEncoderError.
        """
        return None

    def preview(self, recipe: Recipe, model: Model) -> Preview:
        """Return the preview of the exported `model`."""
        from training.export.preview import trained_preview  # noqa: PLC0415 - for export alone

        return trained_preview(recipe, model)

    def card_notes(self, recipe: Recipe) -> Sequence[str]:  # noqa: ARG002
        """Return what the model card says about the use and the limits of such models."""
        return ()

    @property
    @abstractmethod
    def served_task(self) -> Task:
        """The task of the exported model. The route that serves the model has the same name."""

    def images_before_export(self, recipe: Recipe) -> int:  # noqa: ARG002
        """Return the number of training images after which the generator can be exported."""
        return 0

    def write_output(
        self,
        recipe: Recipe,
        generator: nn.Module,  # noqa: ARG002 - for other outputs than images
        state: Mapping[str, Any],  # noqa: ARG002
        folder: Path,  # noqa: ARG002
    ) -> dict[str, OutputSpec]:
        """Return what the generator returns, as the field of the manifest that describes it.

        Files that belong to the description are written into `folder`. `state` is the state of the
        game in the checkpoint. Raises ExportError.
        """
        data = recipe.data
        return {
            "image": ImageSpec(
                height=data.resolution, width=data.resolution, channels=data.channels
            )
        }

    @abstractmethod
    def graph_specs(self, recipe: Recipe, generator: nn.Module) -> list[GraphSpec]:
        """Return the graphs to export. `generator` must be in eval mode."""
