"""Options of the game of the original GAN."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import nn

from service.runtime.models.parts.latent import LatentSpace, Truncation
from service.runtime.models.parts.tasks import Task
from training.augmentation.augment import AugmentOptions
from training.evaluation.during_training import EvaluateOptions
from training.evaluation.metrics import selectable_metrics
from training.games.balance import BalanceOptions
from training.games.options import GameOptions
from training.networks.layers.growth import Growth
from training.networks.layers.shapes import ImageShape
from training.recipe.choices import OneOf, import_modules
from training.recipe.options import Options

if TYPE_CHECKING:
    import torch

    from training.data.dataset import Dataset
    from training.data.images import ImageData, Progress
    from training.device import Precision
    from training.distributed import DistributedContext
    from training.export.graphs import GraphSpec
    from training.games.game import GameSetup, Validation
    from training.networks.options import NoiseGeneratorOptions
    from training.recipe.schema import Recipe

# Registers the kinds of augmentation.
import_modules("training.augmentation")


class InstanceNoiseOptions(Options):
    """Instance noise: added to all images for the discriminator, so that real and fake overlap.

    Sønderby et al. 2016, arXiv:1610.04490. The standard deviation of the noise, for images in [-1,
    1], falls linearly from `sigma` to 0.
    """

    sigma: float = Field(default=0.1, gt=0)
    until_images: PositiveInt

    def at(self, images_seen: int) -> float:
        """Return the standard deviation after `images_seen` images."""
        return self.sigma * max(1 - images_seen / self.until_images, 0.0)


class GrowingOptions(Options):
    """Progressive growing: training starts at a low resolution, and higher resolutions fade in.

    Karras et al. 2017, arXiv:1710.10196, appendix A. Counts are numbers of real images shown to the
    discriminator.
    """

    # The first resolution, in pixels.
    start: Literal[4, 8, 16, 32, 64, 128, 256, 512] = 8
    # Number of images for which each resolution except the last is trained, and also of images over
    # which the next resolution fades in.
    stage_images: PositiveInt = 600_000
    fade_images: PositiveInt = 600_000

    def at(self, images_seen: int, side: int) -> Growth | None:
        """Return the growth state after `images_seen` images of networks of `side` pixels.

        Returns None at full size, which is reached after `self.images(side)` images.
        """
        if images_seen < self.stage_images and self.start < side:
            return Growth(self.start, 1.0)
        step, within = divmod(images_seen - self.stage_images, self.fade_images + self.stage_images)
        growth = Growth(self.start * 2 ** (step + 1), min(within / self.fade_images, 1.0))
        return None if growth.side > side or growth == Growth(side, 1.0) else growth

    def images(self, side: int) -> int:
        """Return the number of images after which the networks have grown to `side` pixels."""
        steps = int(math.log2(side // self.start))
        return steps * (self.stage_images + self.fade_images)


class NoiseToImageOptions(GameOptions):
    """The game of the original GAN, which generates images from noise."""

    kind: Literal["noise_to_image"] = "noise_to_image"
    # k in algorithm 1 of arXiv:1406.2661: discriminator steps for each generator step.
    discriminator_steps: PositiveInt = 1
    # Adapts the number of discriminator steps instead of fixing it.
    balance: BalanceOptions | None = None
    # Weights of the penalties on the discriminator's gradients; 0 turns a penalty off.
    gradient_penalty: NonNegativeFloat = 0.0
    r1: NonNegativeFloat = 0.0
    r2: NonNegativeFloat = 0.0
    # Lazy regularization (arXiv:1912.04958): every n-th turn has a step for the penalties alone,
    # with n times the weight. Optimizers have a slightly lower rate for it.
    penalty_every: PositiveInt = 1
    # Weight of orthogonal regularization of the generator; 1e-4 in the BigGAN paper.
    orthogonal: NonNegativeFloat = 0.0
    # Probability that a generated image mixes the styles of two latents; 0.9 is usual.
    style_mixing: float = Field(default=0.0, ge=0, le=1)
    # Weight of path length regularization (arXiv:1912.04958, section 3.2), and its interval.
    path_length: NonNegativeFloat = 0.0
    path_length_every: PositiveInt = 4
    # Progressive growing, for networks that support it.
    growing: GrowingOptions | None = None
    # Random augmentation of all images for the discriminator, against overfitting on small data.
    augment: Annotated[AugmentOptions, OneOf("kind")] | None = None
    instance_noise: InstanceNoiseOptions | None = None
    # Clip the discriminator's weights to this bound after each of its steps (WGAN).
    clip_weights: PositiveFloat | None = None

    @property
    def metrics(self) -> tuple[str, ...]:
        return selectable_metrics("features", default="kernel_distance")

    @model_validator(mode="after")
    def _steps_are_fixed_or_balanced(self) -> NoiseToImageOptions:
        if self.balance and self.discriminator_steps != 1:
            raise ValueError("balance sets the discriminator steps: remove discriminator_steps")
        return self

    @property
    def batches_per_turn(self) -> int:
        """Number of batches of real images in one turn: one for each discriminator step."""
        return self.discriminator_steps

    @property
    def has_penalties(self) -> bool:
        """Whether the discriminator has penalties on its gradients."""
        return bool(self.gradient_penalty or self.r1 or self.r2)

    @property
    def turns_in_period(self) -> int:
        """Number of turns after which the lazy penalties repeat."""
        return math.lcm(*map(self.lazy_interval, ("generator", "discriminator")))

    def lazy_interval(self, player: str) -> int:
        """Return after how many steps `player` takes one more for its penalties alone."""
        if player == "generator":
            return self.path_length_every if self.path_length else 1
        return self.penalty_every if self.has_penalties else 1

    def cost_changes(self, recipe: Recipe) -> tuple[int, ...]:
        """Return the images seen at which the networks start to grow, or have grown."""
        if self.growing is None:
            return ()
        grown = self.growing.images(recipe.data.resolution)
        stage, fade = self.growing.stage_images, self.growing.fade_images
        starts = range(stage, grown, stage + fade)
        return tuple(sorted({*starts, *(start + fade for start in starts)}))

    def check(self, recipe: Recipe) -> None:
        """Raise ValueError unless the other sections of the recipe fit the game."""
        generator = self._check_players(recipe)
        for key in ("style_mixing", "path_length"):
            if getattr(self, key) and not generator.has_styles:
                raise ValueError(
                    f"game.{key} needs a generator with styles; {generator.network} has none"
                )
        if self.growing:
            side = recipe.data.resolution
            if self.growing.start >= side:
                raise ValueError(
                    f"game.growing.start ({self.growing.start}) is not below {side} pixels"
                )
            images = self.growing.images(side)
            if recipe.train.images < images:
                raise ValueError(
                    f"train.images ({recipe.train.images}) is too small: the networks are "
                    f"fully grown after {images} images"
                )

    def _check_players(self, recipe: Recipe) -> NoiseGeneratorOptions:
        """Raise ValueError unless the recipe has a noise generator, and no other inputs."""
        if recipe.source is not None:
            raise ValueError(f"the game {self.kind} does not use a section source; remove it")
        generator = recipe.generator.from_noise()
        recipe.discriminator.of_images()
        return generator

    def build_generator(self, recipe: Recipe) -> nn.Module:
        """Build the generator with new weights from the global random state."""
        options, shape = recipe.generator.from_noise(), image_shape(recipe)
        build = options.build_growing if self.growing else options.build
        return build(shape, recipe.classes)

    def build_discriminator(self, recipe: Recipe) -> nn.Module:
        """Build the discriminator with new weights from the global random state."""
        options, shape = recipe.discriminator.of_images(), image_shape(recipe)
        build = options.build_growing if self.growing else options.build
        return build(shape, recipe.classes)

    def prepare_data(self, recipe: Recipe, progress: Progress | None = None) -> Dataset:
        """Decode the images of `recipe.data`. Raises DataError."""
        from training.data.images import load_images  # noqa: PLC0415 - not to read a recipe

        return load_images(recipe.data, progress)

    def set_up(
        self,
        recipe: Recipe,
        data: ImageData,
        device: torch.device,
        precision: Precision,
        distributed: DistributedContext,
    ) -> GameSetup:
        """Build the players and their data. Raises RecipeError."""
        from training.games.noise_to_image.setup import NoiseToImageSetup  # noqa: PLC0415

        return NoiseToImageSetup(recipe, self, data, device, precision, distributed)

    def validation(
        self,
        recipe: Recipe,
        options: EvaluateOptions,
        *,
        confirms: bool = False,  # noqa: ARG002 - see `training.evaluation.search`
    ) -> Validation:
        """Return the validation of this recipe. Raises QualityError, DataError."""
        from training.games.noise_to_image.validation import (  # noqa: PLC0415 - the extra `quality`
            NoiseToImageValidation,
        )

        return NoiseToImageValidation(options, recipe.data)

    def latent_space(self, recipe: Recipe, *, truncates: bool) -> LatentSpace:
        """Return the manifest's description of latents."""
        generator = recipe.generator.from_noise()
        return LatentSpace(
            dimension=generator.z_dim,
            distribution=generator.distribution,
            truncation=Truncation() if truncates else None,
        )

    @property
    def served_task(self) -> Task:
        """The task of the exported model."""
        return "generate"

    def images_before_export(self, recipe: Recipe) -> int:
        """Return the number of images to grow to full resolution; 0 without growing."""
        return self.growing.images(recipe.data.resolution) if self.growing else 0

    def graph_specs(self, recipe: Recipe, generator: nn.Module) -> list[GraphSpec]:
        """Return the graphs to export. `generator` must be in eval mode."""
        from training.export.graphs import generator_graph_specs  # noqa: PLC0415 - for export alone

        options = recipe.generator.from_noise()
        return generator_graph_specs(generator, options.z_dim, recipe.classes, options.distribution)


def image_shape(recipe: Recipe) -> ImageShape:
    """Return the shape of the images that the generator returns and the discriminator takes."""
    return ImageShape(recipe.data.channels, recipe.data.resolution, recipe.data.resolution)
