"""The inputs of the metrics of an evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from training.evaluation.evaluation import Progress
from training.evaluation.features.networks import FeatureNetwork, Features
from training.evaluation.features.references import Reference
from training.evaluation.noise.targets import NoiseTarget

T = TypeVar("T")


@dataclass(frozen=True)
class EvaluationOptions:
    """The numbers of images to measure, and which slow metrics to measure."""

    samples: int = 5_000
    reference_samples: int = 10_000
    # Trains a classifier once per data set, which takes minutes on a CPU.
    class_accuracy: bool = True
    # Number of paths between styles for the path length.
    paths: int = 500


@dataclass(frozen=True)
class FeatureSets:
    """Features and labels of generated and real images.

    `baseline` are real images that are measured in the same way as generated images. They are
    compared with `baseline_reference`: all or a part of `real`, without the images of `baseline`.
    """

    generated: Features
    generated_labels: NDArray[np.int64] | None
    real: Features
    real_labels: NDArray[np.int64] | None
    baseline: Features
    baseline_labels: NDArray[np.int64] | None
    baseline_reference: Features


@dataclass(frozen=True)
class EvaluationInputs:
    """The generated images ``[N, H, W, C] uint8``, and everything they are compared with."""

    target: NoiseTarget
    reference: Reference
    network: FeatureNetwork
    options: EvaluationOptions
    pixels: NDArray[np.uint8]
    features: FeatureSets
    progress: Progress | None = None
    _results: dict[Callable[..., Any], Any] = field(default_factory=dict, repr=False)

    def once(self, function: Callable[[EvaluationInputs], T]) -> T:
        """Return ``function(self)``. Later calls with this function return the cached result."""
        if function not in self._results:
            self._results[function] = function(self)
        result: T = self._results[function]
        return result

    def show(self, stage: str, done: int, total: int) -> None:
        """Call the progress callback if there is one."""
        if self.progress:
            self.progress(stage, done, total)
