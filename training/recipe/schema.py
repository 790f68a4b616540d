"""The schema of recipes: one experiment as data.

Sections that differ between games, tasks, networks and optimizers are declared next to what they
configure and found by registries; see `training.recipe.choices`.
"""

from __future__ import annotations

from typing import Any

import torch
import yaml
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import nn

from service.runtime.models.manifest import ImageInput
from training.data.images import DataOptions
from training.device import DeviceOptions
from training.evaluation.during_training import EvaluateOptions
from training.evaluation.search.ranges import SearchRange
from training.games.registry import Game, default_game, register_games
from training.games.tasks.registry import register_tasks
from training.networks.options import Discriminator, Generator, register_networks
from training.optimizers import OptimizerOptions
from training.recipe.options import Options

register_networks()
register_tasks()
register_games()


class EMAOptions(Options):
    """The moving average of the generator's weights, which is what is sampled and exported."""

    half_life_images: PositiveInt = 20_000
    # The half-life is at most this fraction of the images seen so far, so that the average leaves
    # the first random weights quickly.
    ramp_up: float = Field(default=0.05, gt=0, le=1)


class TrainOptions(Options):
    """How long to train, and how often to report. Counts are of images."""

    # Real images shown to the discriminator.
    images: PositiveInt = 1_000_000
    # Batch size over all processes.
    batch: PositiveInt = 64
    # Gradient accumulation: each process splits its batch into this many parts, to fit a large
    # batch into memory. Statistics across a batch, such as batch normalization's, are of one part.
    accumulate: PositiveInt = 1
    seed: NonNegativeInt = 0
    log_images: PositiveInt = 10_000
    sample_images: PositiveInt = 50_000
    checkpoint_images: PositiveInt = 50_000


class Recipe(Options):
    """One experiment: data, a game, its players, and how long they are trained."""

    # The name on the model card; for a shipped recipe the name of its file.
    name: str = ""
    summary: str
    # The license of the trained weights.
    license: str = "unknown"
    # Classes of conditional networks; the data must have as many. 0 is unconditional.
    classes: NonNegativeInt = 0
    data: DataOptions
    # A second set of images, which are the inputs, for tasks that do not derive them from `data`.
    source: DataOptions | None = None
    game: Game = Field(default_factory=default_game)
    generator: Generator
    discriminator: Discriminator
    optimizer: OptimizerOptions = OptimizerOptions()
    ema: EMAOptions = EMAOptions()
    train: TrainOptions = TrainOptions()
    # Evaluation during training; off if omitted.
    evaluate: EvaluateOptions | None = None
    # The ranges in which `ganymede search` looks for better values, by dotted key.
    search: dict[str, SearchRange] = Field(default_factory=dict)
    device: DeviceOptions = DeviceOptions()

    @model_validator(mode="after")
    def _batches_fit(self) -> Recipe:
        turn = self.train.batch * self.game.batches_per_turn
        if self.train.images < turn:
            raise ValueError(f"train.images ({self.train.images}) is less than one turn ({turn})")
        if self.train.batch % self.train.accumulate:
            raise ValueError(
                f"train.batch ({self.train.batch}) must be a multiple of train.accumulate "
                f"({self.train.accumulate})"
            )
        return self

    @model_validator(mode="after")
    def _game_fits(self) -> Recipe:
        self.game.check(self)
        # On the device `meta` networks have shapes but no memory, so building them costs nothing.
        with torch.device("meta"):
            self.build_generator()
            self.build_discriminator()
        return self

    @model_validator(mode="after")
    def _game_has_the_metric(self) -> Recipe:
        if self.metric not in self.game.metrics:
            choices = ", ".join(self.game.metrics)
            raise ValueError(f"evaluate.metric of the game {self.game.kind} is one of {choices}")
        return self

    @property
    def metric(self) -> str:
        """The metric that chooses the best checkpoint."""
        chosen = self.evaluate.metric if self.evaluate else None
        return chosen or self.game.metrics[0]

    @property
    def image_input(self) -> ImageInput | None:
        """The manifest's description of input images; None for a generator from noise."""
        return self.game.image_input(self)

    @property
    def required_source(self) -> DataOptions:
        """The section `source` of a recipe whose game requires one."""
        if self.source is None:
            raise ValueError("the recipe has no section source")
        return self.source

    def build_generator(self) -> nn.Module:
        """Build the generator with new weights from the global random state."""
        return self.game.build_generator(self)

    def build_discriminator(self) -> nn.Module:
        """Build the discriminator with new weights from the global random state."""
        return self.game.build_discriminator(self)

    def to_yaml(self) -> str:
        """Return the recipe as YAML with every default written out."""
        values: dict[str, Any] = self.model_dump(mode="json")
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
