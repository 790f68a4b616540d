"""Quality while a run goes on: a few figures of the averaged generator, at one interval.

They are held against the pictures that the run learns from. A held-out split that chose the best
checkpoint would be held out no longer; `ganymede evaluate` measures against that one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from training.data.pictures import DataOptions, Pictures
from training.options import Options

Metric = Literal["kernel_distance", "frechet_distance"]


class EvaluateOptions(Options):
    """How often a run is measured, by what, and whether it ends when it gets no better."""

    every_images: PositiveInt = 100_000
    # Pictures made each time, of the same latents; the Fréchet distance wants many more.
    samples: int = Field(default=1_000, ge=10)
    reference_samples: int = Field(default=5_000, ge=10)
    # `efficientnet-lite0`, or the path of another feature network.
    network: str = "efficientnet-lite0"
    # What decides which checkpoint is the best; less is better.
    metric: Metric = "kernel_distance"
    # Ends the run after so many evaluations in a row that were no better; without, it goes on.
    patience: PositiveInt | None = None


class RunningQuality:
    """Measures pictures against those of a run, and remembers which were the best."""

    def __init__(self, options: EvaluateOptions, data: DataOptions, pictures: Pictures) -> None:
        """Look at the real pictures, or find what was seen of them before. Raises QualityError."""
        # What needs the extra `quality` waits until a run is measured.
        from training.quality.features import open_network  # noqa: PLC0415
        from training.quality.references import RealPictures  # noqa: PLC0415

        self.options = options
        self._network = open_network(options.network)
        margin = (pictures.pixels.shape[1] - data.resolution) // 2
        if margin:
            # Stored larger for random crops; the middle is what a run is measured against.
            middle = slice(margin, margin + data.resolution)
            pictures = Pictures(
                pictures.pixels[:, middle, middle], pictures.labels, pictures.class_names
            )
        real = RealPictures(data.title, data.split, pictures)
        vectors = real.features(real.rows(options.reference_samples), self._network).vectors
        # In no order, so that the first so many stand for all.
        self._real = vectors[np.random.default_rng(0).permutation(len(vectors))]
        self._history: list[tuple[int, float]] = []

    def hear(self, entry: Mapping[str, Any]) -> bool:
        """Take in an entry of the log; return whether it is an evaluation, and the best so far."""
        value = entry.get(self.options.metric)
        if value is None:
            return False
        best = self.best
        self._history.append((int(entry["images"]), float(value)))
        return best is None or value < best[1]

    @property
    def best(self) -> tuple[int, float] | None:
        """The images seen at the best evaluation, and its figure; None before the first."""
        return min(self._history, key=lambda each: each[1], default=None)

    @property
    def gave_up(self) -> bool:
        """Whether the last evaluations, as many as the patience allows, were no better."""
        if self.options.patience is None or self.best is None:
            return False
        since = [images for images, _ in self._history if images > self.best[0]]
        return len(since) >= self.options.patience

    def measure(self, pictures: Callable[[Sequence[int]], NDArray[np.uint8]]) -> dict[str, float]:
        """Return the figures of the pictures ``[N, H, W, C] uint8`` that seeds become."""
        from training.quality.manifolds import coverage  # noqa: PLC0415
        from training.quality.statistics import (  # noqa: PLC0415
            Moments,
            frechet_distance,
            kernel_distance,
        )

        made = self._network.features(pictures(range(self.options.samples))).vectors
        kernel = kernel_distance(made, self._real)
        # The manifolds of sets of unequal counts do not compare.
        count = min(len(made), len(self._real))
        found = coverage(self._real[:count], made[:count])
        return {
            "kernel_distance": kernel.value,
            "kernel_distance_high": kernel.high,
            "frechet_distance": frechet_distance(Moments.of(made), Moments.of(self._real)),
            "precision": found.precision,
            "recall": found.recall,
        }
