"""Inputs, outputs and expected outputs of an image-to-image model, for side-by-side display."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from service.runtime.models.model import Model
from service.runtime.models.parts.graphs import GENERATOR
from training.data.pairs import EXAMPLES, example_pairs, unpaired_examples
from training.games.tasks.task import TaskInputs
from training.recipe.schema import Recipe

Pixels = NDArray[np.uint8]

_BATCH = 16


def translate_images(model: Model, inputs: TaskInputs, direction: str = GENERATOR) -> Pixels:
    """Return a model's outputs ``[N, H, W, C]``, computed by the runtime that serves it."""
    outputs = []
    for part in inputs.parts(_BATCH):
        feeds = {"image": channels_last(part.image)}
        if part.mask is not None:
            feeds["mask"] = part.mask[:, 0].numpy()
        outputs.append(model.run(direction, feeds)["pixels"])
    return np.concatenate(outputs)


def example_series(recipe: Recipe, model: Model, count: int = EXAMPLES) -> list[Pixels]:
    """Return series of corresponding images ``[N, H, W, C]`` of held-out data.

    The series are inputs, outputs and expected outputs; for a model with two directions, the inputs
    and outputs of each direction.
    """
    if model.directions:
        source, target = unpaired_examples(recipe, count)
        forward, back = model.directions
        return [
            channels_last(source),
            translate_images(model, TaskInputs(source), forward),
            channels_last(target),
            translate_images(model, TaskInputs(target), back),
        ]
    inputs, targets = example_pairs(recipe, count)
    return [visible_inputs(inputs), translate_images(model, inputs), channels_last(targets)]


def visible_inputs(inputs: TaskInputs) -> Pixels:
    """Return the input images ``[N, H, W, C]`` with masked pixels in white."""
    images = channels_last(inputs.image)
    if inputs.mask is None:
        return images
    masked = inputs.mask.permute(0, 2, 3, 1).numpy() > 127
    return np.where(masked, np.uint8(255), images)


def channels_last(images: Tensor) -> Pixels:
    """Convert ``[N, C, H, W] uint8`` to ``[N, H, W, C]``."""
    pixels: Pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
    return pixels
