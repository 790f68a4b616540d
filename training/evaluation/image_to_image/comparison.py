"""Comparison of image-to-image models pair by pair, on the same targets."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from service.runtime.models.parts.measurements import Quality
from training.evaluation.errors import QualityError
from training.evaluation.image_to_image.evaluation import DirectionResult
from training.evaluation.metrics import Metric, get_metric, pair_metric_names

# The standard normal quantile of a 95% interval.
_QUANTILE = 1.96


@dataclass(frozen=True)
class Member:
    """One direction of a model, in a group of directions with the same targets."""

    title: str
    result: DirectionResult

    @property
    def figures(self) -> Sequence[Quality]:
        """The metrics, with keys that do not contain the direction."""
        return [
            figure.model_copy(update={"metric": figure.metric.partition(", ")[0]})
            for figure in self.result.figures
        ]


@dataclass(frozen=True)
class PairedVerdict:
    """The comparison of two models by one metric on the same pairs.

    `difference` is the mean difference, and `within` is half the width of its 95% interval. `wins`
    is the number of pairs in which the model with the better mean is better.
    """

    metric: Metric
    # The key of the metric in results.
    key: str
    better: str
    worse: str
    difference: float
    within: float
    wins: int
    pairs: int

    @property
    def sure(self) -> bool:
        """True if the difference is significant: its confidence interval does not contain 0."""
        return self.difference > self.within

    def __str__(self) -> str:
        difference, within = (self.metric.format(each) for each in (self.difference, self.within))
        if self.sure:
            return (
                f"{self.key}: {self.better} is better than {self.worse} by {difference} ± {within} "
                f"and in {self.wins:,} of {self.pairs:,} pairs"
            )
        return (
            f"{self.key}: no significant difference between {self.better} and {self.worse} "
            f"({difference} ± {within})"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as a JSON object."""
        return {
            "metric": self.key,
            "better": self.better,
            "worse": self.worse,
            "difference": self.difference,
            "within": self.within if math.isfinite(self.within) else None,
            "wins": self.wins,
            "pairs": self.pairs,
            "sure": self.sure,
        }


def group_by_targets(
    models: Sequence[tuple[str, Sequence[DirectionResult]]],
) -> list[list[Member]]:
    """Group the directions of models, each with its title, by their target images.

    Directions without a counterpart are omitted. Raises QualityError if no group remains.
    """
    groups: dict[str, list[Member]] = {}
    for title, results in models:
        for result in results:
            name = f"{title}, {result.direction}" if len(results) > 1 else title
            digest = str(result.figures[0].reference_sha256)
            groups.setdefault(digest, []).append(Member(name, result))
    shared = [group for group in groups.values() if len(group) > 1]
    if not shared:
        raise QualityError(
            "the models cannot be compared: they were evaluated on different target images, or on "
            "different numbers of them"
        )
    return shared


def compare_members(group: Sequence[Member]) -> Iterator[PairedVerdict]:
    """Yield a verdict for each metric and each pair of members of a group."""
    for one, other in combinations(group, 2):
        for name in pair_metric_names(per_pair=True):
            metric = get_metric(name)
            key = next(figure.metric for figure in one.figures if metric.matches(figure.metric))
            gain = one.result.values[name] - other.result.values[name]
            if not metric.higher_is_better:
                gain = -gain
            better, worse = (one, other) if gain.mean() >= 0 else (other, one)
            gain = gain if better is one else -gain
            error = gain.std(ddof=1) / math.sqrt(len(gain)) if len(gain) > 1 else math.inf
            yield PairedVerdict(
                metric=metric,
                key=key,
                better=better.title,
                worse=worse.title,
                difference=float(gain.mean()),
                within=float(_QUANTILE * error),
                wins=int((gain > 0).sum()),
                pairs=len(gain),
            )
