"""What a model from pictures to pictures makes, beside what went in and what should come out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from service.runtime.models.manifest import GENERATOR
from service.runtime.models.model import Model
from training.data.pairs import EXAMPLES, example_pairs, unpaired_examples
from training.games.tasks.task import Given
from training.recipe.schema import Recipe

Pixels = NDArray[np.uint8]

_AT_ONCE = 16


def made_by(model: Model, given: Given, direction: str = GENERATOR) -> Pixels:
    """Return the pictures ``[N, H, W, C]`` that a model makes, through the runtime that serves."""
    made = []
    for some in given.parts(_AT_ONCE):
        feeds = {"image": pixels(some.image)}
        if some.mask is not None:
            feeds["mask"] = some.mask[:, 0].numpy()
        made.append(model.run(direction, feeds)["pixels"])
    return np.concatenate(made)


def shown_pairs(recipe: Recipe, model: Model, count: int = EXAMPLES) -> list[Pixels]:
    """Return series of pictures ``[N, H, W, C]`` to be shown side by side, of held-out pictures.

    What goes in, what comes out, and what should have; of a model with two directions those that
    went in and came out of both.
    """
    if model.directions:
        source, target = unpaired_examples(recipe, count)
        there, back = model.directions
        return [
            pixels(source),
            made_by(model, Given(source), there),
            pixels(target),
            made_by(model, Given(target), back),
        ]
    given, wanted = example_pairs(recipe, count)
    return [seen(given), made_by(model, given), pixels(wanted)]


def seen(given: Given) -> Pixels:
    """Return what goes in as people see it, ``[N, H, W, C]``: holes are white."""
    shown = pixels(given.image)
    if given.mask is None:
        return shown
    hole = given.mask.permute(0, 2, 3, 1).numpy() > 127
    return np.where(hole, np.uint8(255), shown)


def pixels(images: Tensor) -> Pixels:
    """Turn ``[N, C, H, W] uint8`` into ``[N, H, W, C]``."""
    turned: Pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
    return turned
