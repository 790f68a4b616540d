"""Setup of the original GAN: the game with its data, sample sheets and validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from service.runtime.latent import seeds as latents
from training.data.dataset import Dataset
from training.data.images import ImageData
from training.data.sampler import ShuffledBatches
from training.device import Precision
from training.distributed import DistributedContext
from training.evaluation.during_training import EvaluateOptions
from training.games.game import Pixels
from training.games.noise_to_image.game import NoiseToImage, RealBatch
from training.games.noise_to_image.options import NoiseToImageOptions
from training.monitoring.diversity import Diversity, reals_to_compare
from training.preview.grids import columns, grid, to_pixels
from training.recipe.errors import RecipeError
from training.recipe.schema import Recipe

# The seeds of the sample sheet. A seed has the same latent as in the service.
SHEET_SEEDS = range(64)
_SAMPLING_BATCH = 128


class NoiseToImageSetup:
    """The game together with its data."""

    def __init__(
        self,
        recipe: Recipe,
        options: NoiseToImageOptions,
        data: ImageData,
        device: torch.device,
        precision: Precision,
        distributed: DistributedContext,
    ) -> None:
        check_classes(recipe, data)
        self.game = self._build_game(recipe, options, device, precision, distributed)
        self.data = data
        self.class_names = data.class_names if recipe.classes else ()
        self._recipe, self._classes = recipe, recipe.classes
        self._device, self._distributed = device, distributed
        self._batches = ShuffledBatches(
            data,
            recipe.train.batch,
            recipe.data.resolution,
            flip=recipe.data.flip,
            seed=recipe.train.seed,
        )
        self._diversity = Diversity(
            reals_to_compare(data, recipe.data.resolution), len(SHEET_SEEDS)
        )
        self._distribution = recipe.generator.from_noise().distribution

    def _build_game(
        self,
        recipe: Recipe,
        options: NoiseToImageOptions,
        device: torch.device,
        precision: Precision,
        distributed: DistributedContext,
    ) -> NoiseToImage:
        return NoiseToImage(recipe, options, device, precision, distributed)

    def batches(self, turn: int) -> list[RealBatch]:
        """Return this process's real images of a turn, with their classes."""
        count = self.game.batches_per_turn
        batches = []
        for number in range(turn * count, (turn + 1) * count):
            pixels, labels = self._batches[number]
            pixels = self._distributed.part(pixels).to(self._device, non_blocking=True)
            images = pixels.float().div_(127.5).sub_(1)
            class_index = None
            if self._classes and labels is not None:
                class_index = self._distributed.part(labels).to(self._device, non_blocking=True)
            images = images.contiguous(memory_format=torch.channels_last)
            batches.append(RealBatch(images, class_index))
        return batches

    def sample_sheet(self, *, measure: bool = True) -> tuple[Image.Image, Mapping[str, float]]:
        """Return a grid of images generated from fixed latents, and their diversity metrics."""
        images = self.game.sample(self._latents(SHEET_SEEDS), self._condition_of(SHEET_SEEDS))
        sheet = grid(to_pixels(images), columns(self._classes))
        return sheet, self._diversity.measure(images) if measure else {}

    def validate(self, options: EvaluateOptions) -> Callable[[], dict[str, float]]:
        """Return a function that measures the images of the first seeds."""
        game = self._recipe.game
        validation = game.validation(self._recipe, options)
        return lambda: validation.measure(self._generate)

    def _generate(self, seeds: Sequence[int]) -> Pixels:
        """Return the images of `seeds` by the current averaged generator."""
        sampler, parts = self.game.sampler(), []
        for start in range(0, len(seeds), _SAMPLING_BATCH):
            some = seeds[start : start + _SAMPLING_BATCH]
            parts.append(to_pixels(sampler(self._latents(some), self._condition_of(some))))
        return np.concatenate(parts)

    def _latents(self, seeds: Sequence[int]) -> Tensor:
        return torch.from_numpy(latents.draw(seeds, self.game.z_dim, self._distribution))

    def _condition_of(self, seeds: Sequence[int]) -> Tensor | None:
        return torch.tensor(list(seeds)) % self._classes if self._classes else None


def check_classes(recipe: Recipe, data: Dataset) -> None:
    """Raise RecipeError unless the data have the number of classes that the recipe names."""
    if recipe.classes and recipe.classes != len(data.class_names):
        names = ", ".join(data.class_names[:10]) or "none"
        reason = "".join(f"; {note}" for note in data.notes)
        raise RecipeError(
            f"the recipe has {recipe.classes} classes, but the data set has "
            f"{len(data.class_names)}: {names}{reason}"
        )
