"""Setup of text-to-image models: the game with its captions, sample sheets and validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from training.captions.encoders import NamedEncoder, open_encoder
from training.captions.reading import (
    Captions,
    captioned,
    example_prompts,
    held_out_texts,
    without_texts,
)
from training.data.images import ImageData
from training.data.sampler import ShuffledBatches
from training.device import Precision
from training.distributed import DistributedContext
from training.games.noise_to_image.game import RealBatch
from training.games.noise_to_image.setup import NoiseToImageSetup
from training.games.text_to_image.game import TextToImage
from training.games.text_to_image.options import TextToImageOptions
from training.preview.captions import captioned_grid
from training.preview.grids import to_pixels
from training.recipe.errors import RecipeError
from training.recipe.schema import Recipe

# Images of each prompt of the sample sheet.
SHEET_IMAGES = 6
# Separates the random choice of captions from the sampler's random numbers.
_CAPTION_STREAM = 5


class TextToImageSetup(NoiseToImageSetup):
    """The game together with images and captions; held-out captions are never trained on."""

    game: TextToImage

    def __init__(
        self,
        recipe: Recipe,
        options: TextToImageOptions,
        data: ImageData,
        device: torch.device,
        precision: Precision,
        distributed: DistributedContext,
    ) -> None:
        encoder = open_encoder(options.captions.encoder)
        if encoder.encoder.dimension != options.dimension:
            raise RecipeError(
                f"game.dimension is {options.dimension}, but the embeddings of "
                f"{options.captions.encoder} have {encoder.encoder.dimension} components"
            )
        held_out = held_out_texts(recipe.data, options.captions)
        captions = captioned(recipe.data, data, options.captions)
        data, captions = without_texts(data, captions, held_out)
        super().__init__(recipe, options, data, device, precision, distributed)
        self._table = _CaptionTable(captions, encoder, recipe.train.seed)
        self._prompts = example_prompts(recipe.data, options.captions)
        self._prompt_vectors = torch.from_numpy(encoder.embed(self._prompts))
        # The captions of seeds in validation: those of the training images, in a fixed order.
        order = np.random.default_rng(0).permutation(len(captions.rows))
        self._validation = torch.from_numpy(
            encoder.embed([captions.rows[row][-1] for row in order])
        )

    def _build_game(
        self,
        recipe: Recipe,
        options: TextToImageOptions,  # type: ignore[override]
        device: torch.device,
        precision: Precision,
        distributed: DistributedContext,
    ) -> TextToImage:
        return TextToImage(recipe, options, device, precision, distributed)

    def batches(self, turn: int) -> list[RealBatch]:
        """Return this process's real images of a turn, with their captions and those of others."""
        batches = super().batches(turn)
        first = turn * len(batches)
        return [
            RealBatch(images, *map(self._part, self._table.draw(self._batches, first + i)))
            for i, (images, *_) in enumerate(batches)
        ]

    def _part(self, vectors: NDArray[np.float32]) -> Tensor:
        part = self._distributed.part(torch.from_numpy(vectors))
        return part.to(self._device, non_blocking=True)

    def sample_sheet(self, *, measure: bool = True) -> tuple[Image.Image, Mapping[str, float]]:
        """Return images of fixed prompts with their captions, and their diversity metrics."""
        seeds = [seed for _ in self._prompts for seed in range(SHEET_IMAGES)]
        text = self._prompt_vectors.repeat_interleave(SHEET_IMAGES, 0)
        images = self.game.sample(self._latents(seeds), text)
        sheet = captioned_grid(to_pixels(images), self._prompts)
        return sheet, self._diversity.measure(images) if measure else {}

    def _condition_of(self, seeds: Sequence[int]) -> Tensor:
        return self._validation[torch.tensor(list(seeds)) % len(self._validation)]


class _CaptionTable:
    """The embeddings of all captions of the training images."""

    def __init__(self, captions: Captions, encoder: NamedEncoder, seed: int) -> None:
        flat = [caption for row in captions.rows for caption in row]
        self._vectors = encoder.embed(flat)
        self._counts = np.array([len(row) for row in captions.rows])
        self._starts = np.cumsum(self._counts) - self._counts
        # Images with the same text match each other's captions.
        texts = [text.casefold() for text in captions.texts()]
        number = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        self._text = np.array([number[text] for text in texts])
        if len(number) < 2:
            raise RecipeError("text to image needs images with at least two different captions")
        self._seed = seed

    def draw(
        self, batches: ShuffledBatches, number: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return embeddings ``[B, d]`` for batch `number`: its captions, and those of others.

        The choice depends only on (seed, number).
        """
        rows = batches.indices(number)
        rng = np.random.default_rng([self._seed, _CAPTION_STREAM, number])
        others = rng.integers(0, len(self._counts), len(rows))
        while (same := self._text[others] == self._text[rows]).any():
            others[same] = rng.integers(0, len(self._counts), int(same.sum()))
        return self._choose(rows, rng), self._choose(others, rng)

    def _choose(self, rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.float32]:
        choice = (rng.random(len(rows)) * self._counts[rows]).astype(np.int64)
        vectors: NDArray[np.float32] = self._vectors[self._starts[rows] + choice]
        return vectors
