"""What an evaluation comes to: the figures, and the pictures that a report shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from service.runtime.models.manifest import Quality


class ClassFigures(BaseModel):
    """What is known of one class."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    samples: int
    reference_samples: int
    kernel_distance: float
    low: float
    high: float
    # The same of real pictures of the class.
    real: float | None = None
    precision: float
    recall: float
    obedience: float | None = None


class Point(BaseModel):
    """The Fréchet distance at a smaller number of samples, of generated and of real pictures."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    samples: int
    made: float
    real: float | None = None


class Evaluation(BaseModel):
    """All figures of one subject. Every one names what it was measured by."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    subject: str
    digest: str | None = None
    figures: tuple[Quality, ...]
    per_class: dict[str, ClassFigures] = {}
    # How the Fréchet distance falls with the number of samples: what is left is the model's.
    curve: tuple[Point, ...] = ()
    feature_network: str
    reference: str
    reference_sha256: str
    held_out: bool
    samples: int
    truncation: float | None = None
    seeds: str | None = None
    warnings: tuple[str, ...] = ()
    seconds: float

    def figure(self, metric: str) -> Quality | None:
        """Return the figure whose metric is, or begins with, `metric`."""
        return next((f for f in self.figures if f.metric.startswith(metric)), None)


@dataclass(frozen=True)
class Neighbours:
    """A generated picture, the training pictures nearest to it, and how near the first is."""

    made: NDArray[np.uint8]
    training: NDArray[np.uint8]
    distance: float


@dataclass(frozen=True)
class Shown:
    """Pictures ``[N, H, W, C] uint8`` for a report."""

    samples: NDArray[np.uint8]
    real: NDArray[np.uint8]
    best: NDArray[np.uint8]
    worst: NDArray[np.uint8]
    nearest: tuple[Neighbours, ...]
    in_a_row: int | None = None
    log: tuple[Mapping[str, Any], ...] = ()
