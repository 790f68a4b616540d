"""A game laid out: its players, the pictures that they play with, and what is shown of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from service.runtime.latent import seeds as latents
from training.data.images import ImageData, Progress, load_images
from training.data.pairs import (
    PairedBatches,
    UnpairedBatches,
    example_pairs,
    load_matched_source,
    unpaired_examples,
)
from training.data.sampler import ShuffledBatches
from training.device import Precision
from training.distributed import DistributedContext
from training.evaluation.during_training import EvaluateOptions, Gauge
from training.games.noise_to_image import NoiseToImage, RealBatch
from training.games.options import PairedOptions, UnpairedOptions
from training.games.paired import Paired, Pairs, given_numbers, numbers
from training.games.tasks.task import Given
from training.games.unpaired import Sides, Unpaired
from training.losses import AdversarialLoss
from training.monitoring.diversity import Diversity, reals_to_compare
from training.preview.grids import columns, grid, side_by_side, to_pixels
from training.recipe.schema import Recipe, RecipeError

# The latents of the sample grids: those of the first seeds, as the service draws them.
GRID_SEEDS = range(64)
_SAMPLED_AT_ONCE = 128
_TRANSLATED_AT_ONCE = 16


class Game(Protocol):
    """What the trainer asks of a game."""

    loss: AdversarialLoss

    @property
    def batches_per_turn(self) -> int:
        """How many batches of pictures one turn takes."""

    def turn(
        self, batches: Any, rng: torch.Generator, number: int, images_seen: int
    ) -> Mapping[str, Tensor]:
        """Play turn `number` on what the setup dealt; `rng` draws for all processes."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next turn depends on."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""


class Setup(Protocol):
    """A game with its pictures."""

    pictures: ImageData
    # Those that the players are told of.
    class_names: tuple[str, ...]

    @property
    def game(self) -> Game:
        """The players."""

    def deal(self, turn: int) -> Sequence[Any]:
        """Return this process's batches of a turn."""

    def show(self) -> tuple[Image.Image, Mapping[str, float]]:
        """Return a sheet of what the averaged generator makes now, and figures of it."""

    def gauge(self, options: EvaluateOptions) -> Gauge:
        """Return what measures the averaged generator. Raises QualityError, DataError."""


def prepare_all(recipe: Recipe, progress: Progress | None = None) -> ImageData:
    """Decode all that a recipe plays with; return the pictures of `data`. Raises DataError."""
    pictures = load_images(recipe.data, progress)
    if isinstance(recipe.game, PairedOptions):
        if recipe.source:
            load_images(recipe.source, progress)
        example_pairs(recipe)
    if isinstance(recipe.game, UnpairedOptions):
        assert recipe.source is not None  # noqa: S101 - the recipe sees to it
        load_images(recipe.source, progress)
        unpaired_examples(recipe)
    return pictures


def set_up(
    recipe: Recipe,
    pictures: ImageData,
    device: torch.device,
    precision: Precision,
    share: DistributedContext,
) -> Setup:
    """Lay out the game of a recipe. Raises RecipeError, DataError."""
    if isinstance(recipe.game, PairedOptions):
        return PairedSetup(recipe, pictures, device, precision, share)
    if isinstance(recipe.game, UnpairedOptions):
        return UnpairedSetup(recipe, pictures, device, precision, share)
    return NoiseSetup(recipe, pictures, device, precision, share)


class NoiseSetup:
    """From noise to pictures."""

    def __init__(
        self,
        recipe: Recipe,
        pictures: ImageData,
        device: torch.device,
        precision: Precision,
        share: DistributedContext,
    ) -> None:
        if recipe.classes and recipe.classes != len(pictures.class_names):
            raise RecipeError(
                f"the recipe has {recipe.classes} classes, and the data {len(pictures.class_names)}"
            )
        self.game = NoiseToImage(recipe, device, precision, share)
        self.pictures = pictures
        self.class_names = pictures.class_names if recipe.classes else ()
        self._classes, self._data = recipe.classes, recipe.data
        self._device, self._share = device, share
        self._batches = _batches(recipe, pictures)
        self._diversity = Diversity(
            reals_to_compare(pictures, recipe.data.resolution), len(GRID_SEEDS)
        )
        self._distribution = recipe.noise.distribution

    def deal(self, turn: int) -> list[RealBatch]:
        """Return real pictures with their classes."""
        count = self.game.batches_per_turn
        reals = []
        for number in range(turn * count, (turn + 1) * count):
            pixels, labels = self._batches[number]
            pixels = self._share.part(pixels).to(self._device, non_blocking=True)
            images = pixels.float().div_(127.5).sub_(1)
            class_index = None
            if self._classes and labels is not None:
                class_index = self._share.part(labels).to(self._device, non_blocking=True)
            images = images.contiguous(memory_format=torch.channels_last)
            reals.append(RealBatch(images, class_index))
        return reals

    def show(self) -> tuple[Image.Image, Mapping[str, float]]:
        """Return the pictures of fixed latents, and how varied they are."""
        pictures = self.game.sample(self._latents(GRID_SEEDS), self._classes_of(GRID_SEEDS))
        sheet = grid(to_pixels(pictures), columns(self._classes))
        return sheet, self._diversity.measure(pictures)

    def gauge(self, options: EvaluateOptions) -> Gauge:
        """Return what measures the pictures of the first seeds."""
        from training.evaluation.validation import NoiseValidation  # noqa: PLC0415 - the extra `quality`

        gauge = NoiseValidation(options, self._data)
        return lambda: gauge.measure(self._made)

    def _made(self, seeds: Sequence[int]) -> NDArray[np.uint8]:
        """Return what the averaged generator makes of seeds, as it is now."""
        sampler, parts = self.game.sampler(), []
        for start in range(0, len(seeds), _SAMPLED_AT_ONCE):
            some = seeds[start : start + _SAMPLED_AT_ONCE]
            parts.append(to_pixels(sampler(self._latents(some), self._classes_of(some))))
        return np.concatenate(parts)

    def _latents(self, seeds: Sequence[int]) -> Tensor:
        return torch.from_numpy(latents.draw(seeds, self.game.z_dim, self._distribution))

    def _classes_of(self, seeds: Sequence[int]) -> Tensor | None:
        return torch.tensor(list(seeds)) % self._classes if self._classes else None


class PairedSetup:
    """From pictures to those that belong to them."""

    class_names: tuple[str, ...] = ()

    def __init__(
        self,
        recipe: Recipe,
        pictures: ImageData,
        device: torch.device,
        precision: Precision,
        share: DistributedContext,
    ) -> None:
        self._recipe = recipe
        self.game = Paired(recipe, device, precision, share)
        source = load_matched_source(recipe, pictures)
        self.pictures = pictures if source is None else source.target
        self._device, self._share = device, share
        self._pairs = PairedBatches(recipe, self.game.task, pictures, source)
        given, wanted = example_pairs(recipe)
        self._examples = Pairs.of(given, wanted)

    def deal(self, turn: int) -> list[Pairs]:
        """Return what goes in, with what should come out."""
        given, wanted = self._pairs[turn]
        image = self._share.part(given.image).to(self._device, non_blocking=True)
        mask = given.mask
        if mask is not None:
            mask = self._share.part(mask).to(self._device, non_blocking=True)
        wanted = self._share.part(wanted).to(self._device, non_blocking=True)
        return [Pairs.of(given._replace(image=image, mask=mask), wanted)]

    def show(self) -> tuple[Image.Image, Mapping[str, float]]:
        """Return what goes in, what comes out and what should, of held-out pictures."""
        pairs = self._examples
        made = self.game.made_of(pairs.given, pairs.mask)
        error = (made.clamp(-1, 1) - pairs.wanted) / 2
        # In dB, of each picture: 20 log10 of its range over the root of its mean squared error.
        psnr = -10 * error.square().mean((1, 2, 3)).clamp(min=1e-10).log10()
        # Not the figures of an evaluation, which are of more pairs.
        figures = {"shown_psnr": float(psnr.mean()), "shown_error": float(error.abs().mean())}
        shown = pairs.given
        if pairs.mask is not None:
            shown = shown * (1 - pairs.mask) + pairs.mask
        sheet = side_by_side([to_pixels(each) for each in (shown, made, pairs.wanted)])
        return sheet, figures

    def gauge(self, options: EvaluateOptions) -> Gauge:
        """Return what measures pairs."""
        from training.evaluation.validation import picture_gauge  # noqa: PLC0415 - the extra `quality`

        gauge = picture_gauge(self._recipe, options)
        return lambda: gauge.measure(self._made)

    def _made(self, given: Given, direction: str) -> NDArray[np.uint8]:  # noqa: ARG002 - there is one
        """Return what the averaged generator makes, as it is now."""
        parts = [
            to_pixels(self.game.made_of(*given_numbers(some)))
            for some in given.parts(_TRANSLATED_AT_ONCE)
        ]
        return np.concatenate(parts)


class UnpairedSetup:
    """Between two sets of pictures."""

    class_names: tuple[str, ...] = ()

    def __init__(
        self,
        recipe: Recipe,
        pictures: ImageData,
        device: torch.device,
        precision: Precision,
        share: DistributedContext,
    ) -> None:
        assert recipe.source is not None  # noqa: S101 - the recipe sees to it
        self._recipe = recipe
        self.game = Unpaired(recipe, device, precision, share)
        self.pictures = pictures
        self._device, self._share = device, share
        self._sets = UnpairedBatches(recipe, pictures, load_images(recipe.source))
        source, target = unpaired_examples(recipe)
        self._examples = Sides(numbers(source), numbers(target))

    def deal(self, turn: int) -> list[Sides]:
        """Return pictures of both sets."""
        source, target = (
            numbers(self._share.part(pixels).to(self._device, non_blocking=True))
            for pixels in self._sets[turn]
        )
        return [Sides(source, target)]

    def show(self) -> tuple[Image.Image, Mapping[str, float]]:
        """Return pictures of the source, what is made of them, and the same of the others."""
        pictures = self._examples
        made = self.game.made_of(pictures)
        series = (pictures.source, made.target, pictures.target, made.source)
        return side_by_side([to_pixels(each) for each in series]), {}

    def gauge(self, options: EvaluateOptions) -> Gauge:
        """Return what measures both directions."""
        from training.evaluation.validation import picture_gauge  # noqa: PLC0415 - the extra `quality`

        gauge = picture_gauge(self._recipe, options)
        return lambda: gauge.measure(self._made)

    def _made(self, given: Given, direction: str) -> NDArray[np.uint8]:
        """Return what the averaged generator of a direction makes, as it is now."""
        parts = [
            to_pixels(self.game.across(numbers(some.image), direction))
            for some in given.parts(_TRANSLATED_AT_ONCE)
        ]
        return np.concatenate(parts)


def _batches(recipe: Recipe, pictures: ImageData) -> ShuffledBatches:
    return ShuffledBatches(
        pictures,
        recipe.train.batch,
        recipe.data.resolution,
        flip=recipe.data.flip,
        seed=recipe.train.seed,
    )
