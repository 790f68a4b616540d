"""The schema of recipes: one experiment as data.

The options of games, tasks, networks and optimizers are declared next to the code that they
configure, and found through registries: see `training.recipe.choices`.
"""

from __future__ import annotations

from typing import Any

import torch
import yaml
from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator
from torch import nn

from service.runtime.models.parts.inputs import ImageInput
from training.data.images import DataOptions
from training.device import DeviceOptions
from training.evaluation.during_training import EvaluateOptions
from training.evaluation.search.ranges import SearchRange
from training.fine_tuning.freezing import freeze_lowest
from training.fine_tuning.options import FineTuneOptions
from training.games.registry import Game, default_game, register_games
from training.games.tasks.registry import register_tasks
from training.monitoring.loggers.logger import LoggerName
from training.networks.options import Discriminator, Generator, register_networks
from training.optimizers import OptimizerOptions
from training.recipe.options import Options

register_networks()
register_tasks()
register_games()


class EMAOptions(Options):
    """The moving average of the generator's weights, which is sampled and exported."""

    half_life_images: PositiveInt = 20_000
    # The half-life is at most this fraction of the images seen so far, so that the initial random
    # weights are forgotten quickly.
    ramp_up: float = Field(default=0.05, gt=0, le=1)


class TrainOptions(Options):
    """The length of the training and the reporting intervals, in images."""

    # Real images shown to the discriminator.
    images: PositiveInt = 1_000_000
    # Batch size over all processes.
    batch: PositiveInt = 64
    # Gradient accumulation: each process splits its batch into this many parts, so that a large
    # batch fits into memory. Batch statistics, as in batch normalization, are computed per part.
    accumulate: PositiveInt = 1
    seed: NonNegativeInt = 0
    log_images: PositiveInt = 10_000
    sample_images: PositiveInt = 50_000
    checkpoint_images: PositiveInt = 50_000
    # Where metrics and sample sheets are recorded, besides `log.jsonl` and `samples/`: any of
    # `tensorboard`, `wandb` and `mlflow`.
    loggers: tuple[LoggerName, ...] = ("tensorboard",)

    @field_validator("loggers")
    @classmethod
    def _each_once(cls, names: tuple[LoggerName, ...]) -> tuple[LoggerName, ...]:
        if len(set(names)) < len(names):
            raise ValueError(f"names a logger twice: {', '.join(names)}")
        return names


class Recipe(Options):
    """One experiment: the data, the game with its networks, and the training options."""

    # The name on the model card; for an included recipe, the name of its file.
    name: str = ""
    summary: str
    # What the trained model is useful for, as the end of a sentence on its card.
    good_for: str = ""
    # The license of the trained weights.
    license: str = "unknown"
    # Number of classes of conditional networks and of the data; 0 is unconditional.
    classes: NonNegativeInt = 0
    data: DataOptions
    # The input images, for tasks that do not derive them from `data`.
    source: DataOptions | None = None
    game: Game = Field(default_factory=default_game)
    generator: Generator
    discriminator: Discriminator
    optimizer: OptimizerOptions = OptimizerOptions()
    ema: EMAOptions = EMAOptions()
    train: TrainOptions = TrainOptions()
    # Starts from the weights of another run or model; disabled if omitted.
    fine_tune: FineTuneOptions | None = None
    # Evaluation during training; disabled if omitted.
    evaluate: EvaluateOptions | None = None
    # The ranges that `ganymede search` explores, by dotted key.
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
        if self.game.takes_sounds and self.data.sound is None:
            raise ValueError(
                f"the game {self.game.kind} needs sounds: add data.sound with rate and samples"
            )
        if self.data.sound is not None and not self.game.takes_sounds:
            raise ValueError(
                f"the game {self.game.kind} needs images: set game.kind=noise_to_sound, or remove "
                "data.sound"
            )
        self.game.check(self)
        # On the device `meta`, networks have shapes but no memory, so building them costs nothing.
        with torch.device("meta"):
            self.build_generator()
            discriminator = self.build_discriminator()
        if self.fine_tune:
            freeze_lowest(discriminator, self.fine_tune.freeze_discriminator)
        return self

    @model_validator(mode="after")
    def _game_has_the_metric(self) -> Recipe:
        if self.metric not in self.game.metrics:
            choices = ", ".join(self.game.metrics)
            raise ValueError(
                f"evaluate.metric of the game {self.game.kind} must be one of {choices}"
            )
        return self

    @property
    def pretrained(self) -> tuple[str, ...]:
        """The pretrained networks that judge the images in training, for the manifest."""
        return tuple(dict.fromkeys([*self.discriminator.pretrained, *self.game.pretrained]))

    @property
    def metric(self) -> str:
        """The metric that selects the best checkpoint."""
        chosen = self.evaluate.metric if self.evaluate else None
        return chosen or self.game.metrics[0]

    @property
    def image_input(self) -> ImageInput | None:
        """The manifest's description of input images, or None for noise models."""
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
