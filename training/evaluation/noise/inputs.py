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

# The limits of the default number of real images. More of them than twice the samples narrow an
# interval by a fifth at most, and take most of the time of an evaluation of few samples.
_MIN_REFERENCE = 2_000
_MAX_REFERENCE = 10_000
REFERENCE_CHOICE = f"default: twice the samples, from {_MIN_REFERENCE:,} to {_MAX_REFERENCE:,}"


@dataclass(frozen=True)
class EvaluationOptions:
    """The numbers of images to measure, and which slow metrics to measure."""

    samples: int = 5_000
    # None: in proportion to the samples; see `default_reference_samples`.
    reference_samples: int | None = None
    # The samples that determine this default, so that compared targets have the same reference;
    # None: those of the target.
    largest_samples: int | None = None
    # Trains a classifier once per data set, which takes minutes on a CPU.
    class_accuracy: bool = True
    # Number of paths between styles for the path length.
    paths: int = 500
    # Select the images of a report, which takes longer than some metrics.
    report_images: bool = True


def default_reference_samples(samples: int) -> int:
    """Return the default maximum number of real images to measure `samples` images against."""
    return min(max(2 * samples, _MIN_REFERENCE), _MAX_REFERENCE)


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
    # The rule that chose a part of the reference's images, or None.
    reference_choice: str | None = None
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
