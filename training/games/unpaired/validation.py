"""Validation of CycleGAN's generators."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
import torch

from training.data.images import load_images
from training.data.pairs import held_out_options
from training.evaluation.during_training import EvaluateOptions
from training.evaluation.features.references import RealImages
from training.games.game import Pixels
from training.games.tasks.task import TaskInputs
from training.games.unpaired.options import UnpairedOptions
from training.games.validation import (
    DistributionMetrics,
    nothing_held_out,
    real_images,
    training_images,
)
from training.recipe.schema import Recipe


class UnpairedValidation:
    """Compares translated images of one set with real images of the other as two distributions."""

    def __init__(self, recipe: Recipe, options: EvaluateOptions, *, confirms: bool = False) -> None:
        """Read both sets. If `confirms`, use held-out images regardless of the options.

        Raises QualityError, DataError.
        """
        sides = (recipe.required_source, recipe.data)
        if confirms or options.against == "held_out":
            held = [held_out_options(side) for side in sides]
            for side, test in zip(sides, held, strict=True):
                if side.split == test.split and not confirms:
                    raise nothing_held_out(side)
            source, target = (real_images(test, load_images(test)) for test in held)
        else:
            source, target = (training_images(side) for side in sides)
        self.title = " and ".join(dict.fromkeys((source.title, target.title)))
        forward, back = cast("UnpairedOptions", recipe.game).directions
        self._directions = {
            forward: (_inputs(source, options.samples), DistributionMetrics(options, target)),
            back: (_inputs(target, options.samples), DistributionMetrics(options, source)),
        }

    def measure(self, translate: Callable[[TaskInputs, str], Pixels]) -> dict[str, float]:
        """Return the metrics of each direction as ``metric/direction``, and their means."""
        by_direction = {
            direction: metrics.measure(translate(inputs, direction))
            for direction, (inputs, metrics) in self._directions.items()
        }
        values = {
            f"{name}/{direction}": value
            for direction, measured in by_direction.items()
            for name, value in measured.items()
        }
        # The upper bound of a confidence interval is meaningful for one direction only.
        names = [name for name in next(iter(by_direction.values())) if not name.endswith("_high")]
        means = {
            name: float(np.mean([measured[name] for measured in by_direction.values()]))
            for name in names
        }
        return means | values


def _inputs(real: RealImages, count: int) -> TaskInputs:
    """Return a fixed choice of `count` images to translate."""
    images = torch.from_numpy(real.images.pixels[real.rows(count)])
    return TaskInputs(images.permute(0, 3, 1, 2).contiguous())
