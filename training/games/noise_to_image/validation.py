"""Validation of generators that take noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from training.data.images import DataOptions
from training.evaluation.during_training import EvaluateOptions
from training.evaluation.features.references import open_reference
from training.games.game import Pixels
from training.games.validation import DistributionMetrics, nothing_held_out, training_images


class NoiseToImageValidation:
    """Compares the images of the first seeds with real images as two distributions."""

    def __init__(self, options: EvaluateOptions, data: DataOptions) -> None:
        """Read the training images, or held-out ones. Raises QualityError, DataError."""
        real = training_images(data)
        if options.against == "held_out":
            reference = open_reference(data)
            if not reference.held_out:
                raise nothing_held_out(data)
            real = reference.against
        self.title = real.title
        self._samples = options.samples
        self._metrics = DistributionMetrics(options, real)

    def measure(self, generate: Callable[[Sequence[int]], Pixels]) -> dict[str, float]:
        """Return the metrics of the images that `generate` returns for the seeds."""
        return self._metrics.measure(generate(range(self._samples)))
