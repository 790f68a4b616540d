"""Quality while a run goes on: a few figures of the averaged generator, at one interval.

What is measured, and against which pictures, is in `training/evaluation/validation.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from pydantic import Field, PositiveInt

from training.evaluation.metrics import MetricName, get_metric
from training.recipe.options import Options

# Reported after the metric that chooses, if measured.
_BESIDE = ("precision", "recall", "psnr", "ssim", "feature_distance")

# Measures the averaged generator as it is when it is called.
Gauge = Callable[[], dict[str, float]]


class EvaluateOptions(Options):
    """How often a run is measured, by what, and whether it ends when it gets no better."""

    every_images: PositiveInt = 100_000
    # Pictures made each time, of the same latents or pictures; the Fréchet distance wants many
    # more.
    samples: int = Field(default=1_000, ge=10)
    reference_samples: int = Field(default=5_000, ge=10)
    # Which pictures are the true ones; what a game has where nothing is said, see the gauges.
    against: Literal["training", "held_out"] | None = None
    # `efficientnet-lite0`, or the path of another feature network.
    network: str = "efficientnet-lite0"
    # What decides which checkpoint is the best; the first of the game's where nothing is said.
    metric: MetricName | None = None
    # Ends the run after so many evaluations in a row that were no better; without, it goes on.
    patience: PositiveInt | None = None


class RunningQuality:
    """Measures a run by its gauge, and remembers what came of it and when it was the best."""

    def __init__(self, options: EvaluateOptions, metric: str, gauge: Gauge) -> None:
        self.metric = metric
        self._cost = get_metric(metric).cost
        self.measure = gauge
        self._patience = options.patience
        self._history: list[tuple[int, float]] = []

    def hear(self, entry: Mapping[str, Any]) -> bool:
        """Take in an entry of the log; return whether it is an evaluation, and the best so far."""
        value = entry.get(self.metric)
        if value is None:
            return False
        best = self.best
        self._history.append((int(entry["images"]), float(value)))
        return best is None or self._cost(value) < self._cost(best[1])

    @property
    def best(self) -> tuple[int, float] | None:
        """The images seen at the best evaluation, and its figure; None before the first."""
        return min(self._history, key=lambda each: self._cost(each[1]), default=None)

    @property
    def gave_up(self) -> bool:
        """Whether the last evaluations, as many as the patience allows, were no better."""
        if self._patience is None or self.best is None:
            return False
        since = [images for images, _ in self._history if images > self.best[0]]
        return len(since) >= self._patience

    def say(self, numbers: Mapping[str, float]) -> str:
        """Return an evaluation in words, the metric first."""
        words = [f"{get_metric(self.metric).title} {numbers[self.metric]:.5g}"]
        for name in _BESIDE:
            if name in numbers and name != self.metric:
                metric, value = get_metric(name), numbers[name]
                text = f"{value:.1%}" if metric.unit == "share" else f"{value:.4g}"
                words.append(f"{metric.title} {text}")
        return ", ".join(words)
