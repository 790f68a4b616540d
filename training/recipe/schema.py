"""The recipe: one experiment as data.

A recipe is a YAML file over this schema. What it leaves out has the default given here; what it
adds that is not here is an error that names the nearest key.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
import yaml
from pydantic import (
    Discriminator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Tag,
    ValidationError,
    model_validator,
)
from torch import nn

from service.runtime.errors import UserError
from service.runtime.models.manifest import ImageInput
from training.augment import AugmentOptions
from training.data.images import DataOptions
from training.device import DeviceOptions
from training.evaluation.during_training import EvaluateOptions
from training.evaluation.search.ranges import SearchRange
from training.games.balance import BalanceOptions
from training.games.options import PairedOptions, UnpairedOptions
from training.games.tasks.task import ImageTask
from training.losses import SMOOTHABLE, LossName
from training.networks import (
    DiscriminatorOptions,
    GeneratorOptions,
    ImageDiscriminatorOptions,
    ImageToImageOptions,
    NoiseGeneratorOptions,
    PatchDiscriminatorOptions,
)
from training.networks.image.cycle import CycleGenerators
from training.networks.layers.growth import Growth
from training.networks.layers.shapes import ImageShape, ImageToImageShape
from training.networks.noise.options import NoiseOptions
from training.networks.noise.style_generator import StyleGenerator, StyleOptions
from training.optimizers import OptimizerOptions
from training.recipe.options import Options, nearest

SHIPPED = Path(__file__).parents[1] / "recipes"


# What tells the members of a union apart; pydantic names it among the keys of an error.
_TAGS = frozenset(
    {
        "biggan",
        "mlp",
        "dcgan",
        "r3gan",
        "stylegan",
        "stylegan2",
        "adam",
        "rmsprop",
        "ada",
        "diffaugment",
        "noise_to_image",
        "paired",
        "unpaired",
        "gated",
        "resnet",
        "rrdb",
        "srresnet",
        "unet",
        "patchgan",
    }
)


# Those whose generators make pictures of pictures.
ImageGames = PairedOptions | UnpairedOptions


class RecipeError(UserError):
    """The recipe cannot be used; the message is one line."""


class InstanceNoiseOptions(Options):
    """Noise on all that the discriminator sees, so that the two distributions overlap.

    Sønderby et al. 2016, arXiv:1610.04490. Falls from `sigma`, on pictures in [-1, 1], to 0.
    """

    sigma: float = Field(default=0.1, gt=0)
    until_images: PositiveInt

    def at(self, images_seen: int) -> float:
        """Return the noise's standard deviation after so many images."""
        return self.sigma * max(1 - images_seen / self.until_images, 0.0)


class GrowingOptions(Options):
    """Progressive growing: the players begin small, and resolutions fade in one after another.

    Karras et al. 2017, arXiv:1710.10196, appendix A. Counts are of real pictures shown.
    """

    # The side to begin with, in pixels.
    start: Literal[4, 8, 16, 32, 64, 128, 256, 512] = 8
    # How long each resolution but the last is played once it is whole, and how long it fades in.
    stage_images: PositiveInt = 600_000
    fade_images: PositiveInt = 600_000

    def at(self, images_seen: int, side: int) -> Growth | None:
        """Return the growth of networks of `side` after so many images; None once it is over."""
        if images_seen < self.stage_images and self.start < side:
            return Growth(self.start, 1.0)
        step, within = divmod(images_seen - self.stage_images, self.fade_images + self.stage_images)
        growth = Growth(self.start * 2 ** (step + 1), min(within / self.fade_images, 1.0))
        return None if growth.side > side or growth == Growth(side, 1.0) else growth

    def images(self, side: int) -> int:
        """Return how many images it takes to grow to `side`."""
        steps = int(math.log2(side // self.start))
        return steps * (self.stage_images + self.fade_images)


class NoiseToImageOptions(Options):
    """The game of the original GAN: from noise to pictures."""

    kind: Literal["noise_to_image"] = "noise_to_image"
    loss: LossName = "non_saturating"
    # k of algorithm 1 in arXiv:1406.2661: discriminator steps for each generator step.
    discriminator_steps: PositiveInt = 1
    # Let k follow how well the discriminator does, in place of a fixed one.
    balance: BalanceOptions | None = None
    # Below 1: one-sided label smoothing, for the losses that have a target for real pictures.
    real_target: float = Field(default=1.0, gt=0.5, le=1)
    # Weights of the penalties on the discriminator's gradients; 0 is without.
    gradient_penalty: NonNegativeFloat = 0.0
    r1: NonNegativeFloat = 0.0
    r2: NonNegativeFloat = 0.0
    # Penalties only at every so many turns, as many times as strong ("lazy": arXiv:1912.04958).
    penalty_every: PositiveInt = 1
    # Keeps the rows of the generator's weights at right angles; BigGAN's value is 1e-4.
    orthogonal: NonNegativeFloat = 0.0
    # How often a generated picture takes its styles from two latents; 0.9 is usual.
    style_mixing: float = Field(default=0.0, ge=0, le=1)
    # Steps of one length in w shall move pictures equally far (arXiv:1912.04958, section 3.2).
    path_length: NonNegativeFloat = 0.0
    path_length_every: PositiveInt = 4
    # Begins at a low resolution, for networks that can.
    growing: GrowingOptions | None = None
    # What the discriminator sees is changed at random, for sets that it could learn by heart.
    augment: AugmentOptions | None = None
    instance_noise: InstanceNoiseOptions | None = None
    # Gradients of either player are scaled down to this norm.
    clip_gradients: PositiveFloat | None = None
    # The discriminator's weights are clipped to this after each of its steps: the first WGAN.
    clip_weights: PositiveFloat | None = None
    # What can choose the best checkpoint, what does where nothing is said first.
    metrics: ClassVar[tuple[str, ...]] = ("kernel_distance", "frechet_distance")

    @property
    def batches_per_turn(self) -> int:
        """How many batches of real pictures one turn takes."""
        return self.discriminator_steps

    @model_validator(mode="after")
    def _steps_are_fixed_or_balanced(self) -> NoiseToImageOptions:
        if self.balance and self.discriminator_steps != 1:
            raise ValueError("balance chooses the discriminator_steps itself; leave them out")
        return self

    @model_validator(mode="after")
    def _smoothing_fits_the_loss(self) -> NoiseToImageOptions:
        if self.real_target != 1 and self.loss not in SMOOTHABLE:
            losses = ", ".join(sorted(SMOOTHABLE))
            raise ValueError(f"real_target is for {losses}; {self.loss} has no target")
        return self


def _kind(given: Any) -> str:
    """The game of the original GAN where nothing else is said."""
    if isinstance(given, dict):
        return str(given.get("kind", "noise_to_image"))
    return str(given.kind)


GameOptions = Annotated[
    Annotated[NoiseToImageOptions, Tag("noise_to_image")]
    | Annotated[PairedOptions, Tag("paired")]
    | Annotated[UnpairedOptions, Tag("unpaired")],
    Discriminator(_kind),
]


class EMAOptions(Options):
    """The moving average of the generator's weights, which is what is sampled and exported."""

    half_life_images: PositiveInt = 20_000
    # Early on the average follows faster, else it would hold on to the first random weights:
    # the half-life is at most this share of the images seen so far.
    ramp_up: float = Field(default=0.05, gt=0, le=1)


class TrainOptions(Options):
    """How long, in which portions, and how often the user hears of it. Counts are of images."""

    # Real pictures shown to the discriminator.
    images: PositiveInt = 1_000_000
    # The batch of all processes together.
    batch: PositiveInt = 64
    # Each process plays its batch in so many parts and moves by their mean gradient: a large batch
    # in the memory of a small one. What looks across a batch, such as its normalisation, sees one
    # part at a time.
    accumulate: PositiveInt = 1
    seed: NonNegativeInt = 0
    log_images: PositiveInt = 10_000
    sample_images: PositiveInt = 50_000
    checkpoint_images: PositiveInt = 50_000


class Recipe(Options):
    """One experiment: pictures, a game, its players, and how long they play."""

    # The name that the model card gives; a shipped recipe has that of its file.
    name: str = ""
    summary: str
    # The licence of the weights, for who trains them to choose.
    license: str = "unknown"
    # How many classes the players are told of; the data must have as many. 0 is unconditional.
    classes: NonNegativeInt = 0
    data: DataOptions
    # A second set of pictures: what goes in, where that is not made of `data`.
    source: DataOptions | None = None
    game: GameOptions = NoiseToImageOptions()
    generator: GeneratorOptions
    discriminator: DiscriminatorOptions
    optimizer: OptimizerOptions = OptimizerOptions()
    ema: EMAOptions = EMAOptions()
    train: TrainOptions = TrainOptions()
    # Measured while it trains, where this is given.
    evaluate: EvaluateOptions | None = None
    # Where `ganymede search` may look for better values, by dotted key.
    search: dict[str, SearchRange] = Field(default_factory=dict)
    device: DeviceOptions = DeviceOptions()

    @model_validator(mode="after")
    def _turns_fit(self) -> Recipe:
        turn = self.train.batch * self.game.batches_per_turn
        if self.train.images < turn:
            raise ValueError(f"train.images ({self.train.images}) is less than one turn ({turn})")
        if self.train.batch % self.train.accumulate:
            raise ValueError(
                f"train.batch ({self.train.batch}) cannot be played in train.accumulate "
                f"({self.train.accumulate}) parts"
            )
        return self

    @model_validator(mode="after")
    def _players_fit_the_game(self) -> Recipe:
        kind, translates = self.game.kind, not isinstance(self.game, NoiseToImageOptions)
        if isinstance(self.generator, ImageToImageOptions) != translates:
            wanted = "from pictures" if translates else "from noise"
            raise ValueError(
                f"the game {kind} needs a generator {wanted}; {self.generator.network} is not"
            )
        if isinstance(self.discriminator, PatchDiscriminatorOptions) != translates:
            wanted = "of patches" if translates else "of pictures"
            raise ValueError(
                f"the game {kind} needs a discriminator {wanted}; {self.discriminator.network} "
                "is not"
            )
        if translates and self.classes:
            raise ValueError(f"classes is for the game noise_to_image, not for {kind}")
        needs = isinstance(self.game, ImageGames) and self.game.task.needs_source
        if needs != (self.source is not None):
            raise ValueError(
                "source goes together with a task or a game that has a second set of pictures"
            )
        return self

    @model_validator(mode="after")
    def _the_task_fits_the_pictures(self) -> Recipe:
        if isinstance(self.game, ImageGames):
            self.game.task.check(self.data.resolution, self.data.channels)
            for key in ("resolution", "channels") if self.source else ():
                if getattr(self.source, key) != getattr(self.data, key):
                    raise ValueError(f"source.{key} has to be that of data")
        return self

    @model_validator(mode="after")
    def _networks_can_be_built(self) -> Recipe:
        # On the device `meta` a network has shapes and no weights, so this costs nothing.
        with torch.device("meta"):
            generator = self.build_generator()
            self.build_discriminator()
        for key in ("style_mixing", "path_length"):
            if getattr(self.game, key, 0) and not isinstance(generator, StyleGenerator):
                network = self.generator.network
                raise ValueError(f"game.{key} needs a generator with styles; {network} has none")
        return self

    @model_validator(mode="after")
    def _growing_fits(self) -> Recipe:
        if (growing := self.growing) is None:
            return self
        for player in (self.generator, self.discriminator):
            if not isinstance(player, StyleOptions):
                raise ValueError(
                    f"game.growing needs networks that grow; {player.network} does not"
                )
        side = self.data.resolution
        if growing.start >= side:
            raise ValueError(f"game.growing.start ({growing.start}) is not below {side} pixels")
        if self.train.images < growing.images(side):
            raise ValueError(
                f"train.images ({self.train.images}) ends before the networks are grown "
                f"({growing.images(side)})"
            )
        return self

    @model_validator(mode="after")
    def _the_game_has_the_metric(self) -> Recipe:
        if self.metric not in self.game.metrics:
            there = ", ".join(self.game.metrics)
            raise ValueError(f"evaluate.metric of the game {self.game.kind} is one of {there}")
        return self

    @property
    def metric(self) -> str:
        """What decides which checkpoint is the best."""
        asked = self.evaluate.metric if self.evaluate else None
        return asked or self.game.metrics[0]

    def build_generator(self) -> nn.Module:
        """Make the generator with fresh weights from the global random state."""
        if isinstance(self.generator, ImageToImageOptions):
            build, shape = self.generator.build_image_to_image, self.translation
            if isinstance(self.game, UnpairedOptions):
                return CycleGenerators({name: build(shape) for name in self.game.directions})
            return build(shape)
        return self._build(self.generator)

    def build_discriminator(self) -> nn.Module:
        """Make the discriminator with fresh weights from the global random state."""
        if isinstance(self.discriminator, PatchDiscriminatorOptions):
            return self.discriminator.build_patch_discriminator(self._judged_channels)
        return self._build(self.discriminator)

    def _build(self, player: NoiseGeneratorOptions | ImageDiscriminatorOptions) -> nn.Module:
        if self.growing and isinstance(player, StyleOptions):
            return player.build(self.shape, self.classes, grows=True)
        return player.build(self.shape, self.classes)

    @property
    def growing(self) -> GrowingOptions | None:
        """How the players grow, where they do."""
        return self.game.growing if isinstance(self.game, NoiseToImageOptions) else None

    @property
    def noise(self) -> NoiseOptions:
        """What the generator says of its latents. Raises RecipeError where it has none."""
        if not isinstance(self.generator, NoiseOptions):
            raise RecipeError(f"{self.generator.network} makes pictures of pictures, not of noise")
        return self.generator

    @property
    def translation(self) -> ImageToImageShape:
        """What goes through a generator from pictures to pictures. Raises RecipeError."""
        task, channels = self.picture_task, self.data.channels
        return ImageToImageShape(
            task.seen_channels(channels),
            task.made_channels(channels),
            self.data.resolution // task.scale,
            task.scale,
        )

    @property
    def picture_task(self) -> ImageTask:
        """What is made of the pictures that go in. Raises RecipeError where none do."""
        if not isinstance(self.game, ImageGames):
            raise RecipeError(f"the game {self.game.kind} has no pictures that go in")
        return self.game.task

    @property
    def picture_input(self) -> ImageInput | None:
        """What the manifest says of the pictures that go in; None where none do."""
        if not isinstance(self.game, ImageGames):
            return None
        assert isinstance(self.generator, ImageToImageOptions)  # noqa: S101 - looked at above
        task, shape = self.game.task, self.translation
        multiple, least = self.generator.side_multiple(shape), self.generator.min_side(shape)
        return ImageInput(
            channels=task.given_channels(self.data.channels),
            side=shape.side,
            multiple=multiple,
            least=least if least > multiple else None,
            factor=shape.factor,
            reach=self.generator.receptive_field(shape),
            masked=task.masked,
            directions=self.game.directions,
        )

    @property
    def _judged_channels(self) -> int:
        """The channels of what a discriminator of patches sees."""
        shape = self.translation
        conditional = isinstance(self.game, ImageGames) and self.game.conditional
        return shape.out_channels + (shape.in_channels if conditional else 0)

    @property
    def shape(self) -> ImageShape:
        """The pictures that the players make and judge."""
        return ImageShape(self.data.channels, self.data.resolution, self.data.resolution)

    def to_yaml(self) -> str:
        """Write the recipe whole, every default included."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def shipped() -> dict[str, Path]:
    """Return the recipes that come with Ganymede, by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.yaml"))}


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a shipped recipe by name, or any by path, with ``section.key=value`` laid over it.

    Raises RecipeError.
    """
    path = shipped().get(name, Path(name))
    if not path.is_file():
        raise RecipeError(f"no recipe {name!r}{nearest(name, shipped())}")
    try:
        given = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(given, dict):
        raise RecipeError(f"{path} is not a recipe: expected sections, got {type(given).__name__}")
    given.setdefault("name", path.stem)
    for override in overrides:
        _override(given, override)
    try:
        return Recipe.model_validate(given)
    except ValidationError as error:
        raise RecipeError(_one_line(error)) from error


def _override(given: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals:
        raise RecipeError(f"expected key=value, as in train.images=20000; got {override!r}")
    *sections, last = key.split(".")
    at = given
    for section in sections:
        at = at.setdefault(section, {})
        if not isinstance(at, dict):
            raise RecipeError(f"{key}: {section} holds a value, not a section")
    try:
        at[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise RecipeError(f"{key}: {value!r} is not a YAML value") from error


def _one_line(error: ValidationError) -> str:
    problems = []
    for problem in error.errors():
        # The tag of a union stands in the location as if it were a key.
        where = ".".join(str(part) for part in problem["loc"] if part not in _TAGS)
        message = problem["msg"].removeprefix("Value error, ")
        problems.append(f"{where}: {message}" if where else message)
    return "; ".join(problems)
