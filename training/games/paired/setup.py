"""Setup of pix2pix: the game with its data, sample sheets and validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from training.data.images import ImageData
from training.data.pairs import PairedBatches, example_pairs, load_matched_source
from training.device import Precision
from training.distributed import DistributedContext
from training.evaluation.during_training import EvaluateOptions
from training.games.game import Pixels
from training.games.image_tensors import input_tensors
from training.games.paired.game import PairBatch, Paired
from training.games.paired.options import PairedOptions
from training.games.tasks.task import TaskInputs
from training.preview.grids import side_by_side, to_pixels
from training.recipe.schema import Recipe

_SAMPLING_BATCH = 16


class PairedSetup:
    """The game together with its data."""

    class_names: tuple[str, ...] = ()

    def __init__(
        self,
        recipe: Recipe,
        options: PairedOptions,
        data: ImageData,
        device: torch.device,
        precision: Precision,
        distributed: DistributedContext,
    ) -> None:
        self._recipe = recipe
        self.game = Paired(recipe, options, device, precision, distributed)
        source = load_matched_source(recipe, data)
        self.data = data if source is None else source.target
        self._device, self._distributed = device, distributed
        self._pairs = PairedBatches(recipe, options.task, data, source)
        self._examples = PairBatch.of(*example_pairs(recipe))

    def batches(self, turn: int) -> list[PairBatch]:
        """Return this process's inputs and targets of a turn."""
        inputs, targets = self._pairs[turn]
        image = self._distributed.part(inputs.image).to(self._device, non_blocking=True)
        mask = inputs.mask
        if mask is not None:
            mask = self._distributed.part(mask).to(self._device, non_blocking=True)
        targets = self._distributed.part(targets).to(self._device, non_blocking=True)
        return [PairBatch.of(inputs._replace(image=image, mask=mask), targets)]

    def sample_sheet(self, *, measure: bool = True) -> tuple[Image.Image, Mapping[str, float]]:
        """Return inputs, outputs and targets of held-out images, and the errors of the outputs."""
        pairs = self._examples
        outputs = self.game.translate(pairs.inputs, pairs.mask)
        metrics = self._metrics(outputs) if measure else {}
        inputs = pairs.inputs
        if pairs.mask is not None:
            inputs = inputs * (1 - pairs.mask) + pairs.mask
        sheet = side_by_side([to_pixels(images) for images in (inputs, outputs, pairs.targets)])
        return sheet, metrics

    def _metrics(self, outputs: Tensor) -> dict[str, float]:
        """Return the errors of `outputs` ``[N, C, H, W]`` for the inputs of the sample sheet."""
        error = (outputs.clamp(-1, 1) - self._examples.targets) / 2
        # PSNR in dB: 20 log10 of the value range divided by the root mean squared error.
        psnr = -10 * error.square().mean((1, 2, 3)).clamp(min=1e-10).log10()
        # Named differently from the metrics of an evaluation, which uses more pairs.
        return {"shown_psnr": float(psnr.mean()), "shown_error": float(error.abs().mean())}

    def validate(self, options: EvaluateOptions) -> Callable[[], dict[str, float]]:
        """Return a function that measures the averaged generator on pairs."""
        validation = self._recipe.game.validation(self._recipe, options)
        return lambda: validation.measure(self._translate)

    def _translate(self, inputs: TaskInputs, direction: str) -> Pixels:  # noqa: ARG002
        """Return the outputs of the current averaged generator."""
        parts = [
            to_pixels(self.game.translate(*input_tensors(part)))
            for part in inputs.parts(_SAMPLING_BATCH)
        ]
        return np.concatenate(parts)
