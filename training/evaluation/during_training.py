"""Evaluation during training: a few metrics of the averaged generator, at regular intervals.

The game determines the metrics and the real images; see `training/games/*/validation.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from pydantic import Field, PositiveInt

from training.evaluation.metrics import MetricName, get_metric
from training.recipe.options import Options

# Shown after the metric that selects the checkpoint.
_ALSO_SHOWN = ("precision", "recall", "psnr", "ssim", "feature_distance")


class EvaluateOptions(Options):
    """The section `evaluate` of a recipe: evaluation during training, and early stopping."""

    every_images: PositiveInt = 100_000
    # The number of images generated at each evaluation, always from the same latents or inputs.
    # The Fréchet distance needs many more samples.
    samples: int = Field(default=1_000, ge=10)
    reference_samples: int = Field(default=5_000, ge=10)
    # The real images to compare with. The default depends on the game.
    against: Literal["training", "held_out"] | None = None
    # `efficientnet-lite0`, or the path of another feature network.
    network: str = "efficientnet-lite0"
    # The metric that selects the best checkpoint; default: the game's first metric.
    metric: MetricName | None = None
    # The number of consecutive evaluations without improvement after which a run stops; default:
    # never.
    patience: PositiveInt | None = None


class RunningQuality:
    """Evaluates a run and records the best evaluation."""

    def __init__(
        self, options: EvaluateOptions, metric: str, measure: Callable[[], dict[str, float]]
    ) -> None:
        """`measure` returns the metrics of the current averaged generator, by name."""
        self.metric = metric
        self.measure = measure
        self._cost = get_metric(metric).cost
        self._patience = options.patience
        self._history: list[tuple[int, float]] = []

    def record(self, entry: Mapping[str, Any]) -> bool:
        """Record a log entry. Return True if it has the best evaluation so far.

        Entries without the metric are ignored.
        """
        value = entry.get(self.metric)
        if value is None:
            return False
        best = self.best
        self._history.append((int(entry["images"]), float(value)))
        return best is None or self._cost(value) < self._cost(best[1])

    @property
    def best(self) -> tuple[int, float] | None:
        """The number of images at the best evaluation, and its value; None without evaluations."""
        return min(self._history, key=lambda each: self._cost(each[1]), default=None)

    @property
    def out_of_patience(self) -> bool:
        """True if none of the last `patience` evaluations was an improvement."""
        if self._patience is None or self.best is None:
            return False
        since = [images for images, _ in self._history if images > self.best[0]]
        return len(since) >= self._patience

    def summary(self, metrics: Mapping[str, float]) -> str:
        """Return the metrics as text. The metric that selects the checkpoint comes first."""
        words = [f"{get_metric(self.metric).title} {metrics[self.metric]:.5g}"]
        for name in _ALSO_SHOWN:
            if name in metrics and name != self.metric:
                metric, value = get_metric(name), metrics[name]
                text = f"{value:.1%}" if metric.unit == "share" else f"{value:.4g}"
                words.append(f"{metric.title} {text}")
        return ", ".join(words)
