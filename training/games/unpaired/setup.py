"""Setup of CycleGAN: the game with its data, sample sheets and validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from PIL import Image

from training.data.images import ImageData, load_images
from training.data.pairs import UnpairedBatches, unpaired_examples
from training.device import Precision
from training.distributed import DistributedContext
from training.evaluation.during_training import EvaluateOptions
from training.games.game import Pixels
from training.games.image_tensors import image_tensor
from training.games.tasks.task import TaskInputs
from training.games.unpaired.game import Sides, Unpaired
from training.games.unpaired.options import UnpairedOptions
from training.preview.grids import side_by_side, to_pixels
from training.recipe.schema import Recipe

_SAMPLING_BATCH = 16


class UnpairedSetup:
    """The game together with its data."""

    class_names: tuple[str, ...] = ()

    def __init__(
        self,
        recipe: Recipe,
        options: UnpairedOptions,
        data: ImageData,
        device: torch.device,
        precision: Precision,
        distributed: DistributedContext,
    ) -> None:
        self._recipe = recipe
        self.game = Unpaired(recipe, options, device, precision, distributed)
        self.data = data
        self._device, self._distributed = device, distributed
        self._sets = UnpairedBatches(recipe, data, load_images(recipe.required_source))
        source, target = unpaired_examples(recipe)
        self._examples = Sides(image_tensor(source), image_tensor(target))

    def batches(self, turn: int) -> list[Sides]:
        """Return this process's images of both sets for a turn."""
        source, target = (
            image_tensor(self._distributed.part(pixels).to(self._device, non_blocking=True))
            for pixels in self._sets[turn]
        )
        return [Sides(source, target)]

    def sample_sheet(
        self,
        *,
        measure: bool = True,  # noqa: ARG002
    ) -> tuple[Image.Image, Mapping[str, float]]:
        """Return source and target images next to their translations."""
        images = self._examples
        translated = self.game.translate_both(images)
        columns = (images.source, translated.target, images.target, translated.source)
        return side_by_side([to_pixels(column) for column in columns]), {}

    def validate(self, options: EvaluateOptions) -> Callable[[], dict[str, float]]:
        """Return a function that measures both directions."""
        validation = self._recipe.game.validation(self._recipe, options)
        return lambda: validation.measure(self._translate)

    def _translate(self, inputs: TaskInputs, direction: str) -> Pixels:
        """Translate inputs with the current averaged generator of a direction."""
        parts = [
            to_pixels(self.game.translate(image_tensor(part.image), direction))
            for part in inputs.parts(_SAMPLING_BATCH)
        ]
        return np.concatenate(parts)
