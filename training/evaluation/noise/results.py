"""The results of an evaluation: the metrics, and the images for a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from service.runtime.models.parts.measurements import Quality


class ClassFigures(BaseModel):
    """The metrics of one class."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    samples: int
    reference_samples: int
    kernel_distance: float
    low: float
    high: float
    # The kernel distance of real images of the class.
    real: float | None = None
    precision: float
    recall: float
    # The class accuracy.
    obedience: float | None = None


class Point(BaseModel):
    """The Fréchet distances of generated and real images at a number of samples."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    samples: int
    made: float
    real: float | None = None


class Evaluation(BaseModel):
    """All metrics of a model or a folder of images, with the measurement conditions."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    subject: str
    digest: str | None = None
    figures: tuple[Quality, ...]
    per_class: dict[str, ClassFigures] = {}
    # The Fréchet distance by the number of samples.
    curve: tuple[Point, ...] = ()
    feature_network: str
    reference: str
    reference_sha256: str
    # The rule that chose the reference images, if they are a part of the split by default.
    reference_choice: str | None = None
    held_out: bool
    samples: int
    truncation: float | None = None
    seeds: str | None = None
    warnings: tuple[str, ...] = ()
    seconds: float

    def figure(self, metric: str) -> Quality | None:
        """Return the first figure whose metric starts with `metric`, or None."""
        return next((f for f in self.figures if f.metric.startswith(metric)), None)


@dataclass(frozen=True)
class Neighbors:
    """A generated image ``[H, W, C]`` and the nearest training images ``[K, H, W, C]``.

    `distance` is the distance to the nearest training image. Below 1, two images are considered
    equal.
    """

    generated: NDArray[np.uint8]
    training: NDArray[np.uint8]
    distance: float


@dataclass(frozen=True)
class ReportImages:
    """Images ``[N, H, W, C] uint8`` for a report, and the log of a run."""

    samples: NDArray[np.uint8]
    real: NDArray[np.uint8]
    most_realistic: NDArray[np.uint8]
    least_realistic: NDArray[np.uint8]
    nearest: tuple[Neighbors, ...]
    columns: int | None = None
    log: tuple[Mapping[str, Any], ...] = ()
