"""Models from pictures to pictures against each other, pair by pair of the same true pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.runtime.models.manifest import Quality
from training.evaluation.errors import QualityError
from training.evaluation.image_to_image.evaluation import Way
from training.evaluation.report.figure_text import direction, said

# Of a normal distribution, so much lies within as many standard errors.
_SURE = 1.96


@dataclass(frozen=True)
class Member:
    """One direction of a model, beside others that were to make the same pictures."""

    title: str
    way: Way

    @property
    def figures(self) -> Sequence[Quality]:
        """Its figures, without the direction in their names."""
        return [
            figure.model_copy(update={"metric": figure.metric.partition(", ")[0]})
            for figure in self.way.figures
        ]

    @property
    def each(self) -> dict[str, NDArray[np.float64]]:
        """What its pairs say, by the name of the figure that is their mean."""
        pairs = (self.way.each.psnr, self.way.each.ssim, self.way.each.feature_distance)
        return {figure.metric: each for figure, each in zip(self.figures, pairs, strict=False)}


@dataclass(frozen=True)
class PairedVerdict:
    """What one figure says of two models, over the same pairs."""

    metric: str
    better: str
    worse: str
    # By how much in the mean, with the half of its 95 % interval, and in how many pairs.
    difference: float
    within: float
    wins: int
    pairs: int

    @property
    def sure(self) -> bool:
        """Whether the interval leaves out that there is no difference."""
        return self.difference > self.within

    def __str__(self) -> str:
        by = f"{said(self.metric, self.difference)} ± {said(self.metric, self.within)}"
        if self.sure:
            return (
                f"{self.metric}: {self.better} is better than {self.worse} by {by}, "
                f"and in {self.wins:,} of {self.pairs:,} pairs"
            )
        return f"{self.metric}: {self.better} and {self.worse} cannot be told apart ({by})"

    def said_to_scripts(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "metric": self.metric,
            "better": self.better,
            "worse": self.worse,
            "difference": self.difference,
            "within": self.within if math.isfinite(self.within) else None,
            "wins": self.wins,
            "pairs": self.pairs,
            "sure": self.sure,
        }


def compared(measured: Sequence[tuple[str, Sequence[Way]]]) -> list[list[Member]]:
    """Group the directions of models by the true pictures that they were measured by.

    A group is of two or more; directions that nothing else stands beside are left out. Raises
    QualityError where there is no group at all.
    """
    groups: dict[str, list[Member]] = {}
    for title, ways in measured:
        for way in ways:
            name = f"{title}, {way.direction}" if len(ways) > 1 else title
            groups.setdefault(str(way.figures[0].reference_sha256), []).append(Member(name, way))
    found = [group for group in groups.values() if len(group) > 1]
    if not found:
        raise QualityError(
            "they are measured by different pictures, or by other numbers of them: they do not "
            "compare"
        )
    return found


def verdicts(group: Sequence[Member]) -> Iterator[PairedVerdict]:
    """Hold every two of a group against each other, figure by figure."""
    for one, other in combinations(group, 2):
        for metric, ours in one.each.items():
            gain = ours - other.each[metric]
            if direction(metric) == "↓":
                gain = -gain
            better, worse = (one, other) if gain.mean() >= 0 else (other, one)
            gain = gain if better is one else -gain
            error = gain.std(ddof=1) / math.sqrt(len(gain)) if len(gain) > 1 else math.inf
            yield PairedVerdict(
                metric,
                better.title,
                worse.title,
                float(gain.mean()),
                float(_SURE * error),
                int((gain > 0).sum()),
                len(gain),
            )
