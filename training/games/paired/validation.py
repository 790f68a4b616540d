"""Validation of generators trained on pairs.

These generators minimize their distance to the training targets, so on training pairs the last
checkpoint would always be the best. Validation therefore uses held-out pairs, at most half of them.
`ganymede evaluate` starts at the opposite end of the held-out pairs, so that the other half has no
influence on the choice of the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from service.runtime.models.parts.graphs import GENERATOR
from training.data.images import ImageData
from training.data.pairs import held_out_options, validation_pairs
from training.evaluation.during_training import EvaluateOptions
from training.evaluation.features.networks import open_network
from training.evaluation.metrics import pair_metric_names
from training.evaluation.metrics.pairs import compare_pairs
from training.games.game import Pixels
from training.games.tasks.task import TaskInputs
from training.games.validation import nothing_held_out, real_images
from training.preview.image_to_image import channels_last
from training.recipe.schema import Recipe


class PairedValidation:
    """Compares outputs with their targets."""

    def __init__(self, recipe: Recipe, options: EvaluateOptions, *, confirms: bool = False) -> None:
        """Read the pairs, and compute the features of the targets or read them from the cache.

        If `confirms`, use the half of the held-out pairs that does not select checkpoints. Raises
        QualityError, DataError.
        """
        data, held = recipe.data, held_out_options(recipe.data)
        if options.against == "held_out" and held.split == data.split:
            raise nothing_held_out(data)
        on_training = held.split == data.split or (options.against == "training" and not confirms)
        half: Literal["first", "last"] = "first" if confirms else "last"
        pairs = validation_pairs(recipe, options.samples, None if on_training else half)
        self._inputs, targets = pairs
        self._targets = channels_last(targets)
        self._network = open_network(options.network)
        real = real_images(data if on_training else held, ImageData(self._targets, None, ()))
        self.title = real.title
        self._features = real.features(np.arange(len(self._targets)), self._network)

    def measure(self, translate: Callable[[TaskInputs, str], Pixels]) -> dict[str, float]:
        """Return the mean metrics over all pairs."""
        outputs = translate(self._inputs, GENERATOR)
        values = compare_pairs(
            outputs, self._targets, self._network, target_features=self._features
        )
        return {name: float(values[name].mean()) for name in pair_metric_names()}
