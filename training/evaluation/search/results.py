"""The results of a search: the trials, the best one, and the confirmation."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from training.evaluation.metrics import MetricName, get_metric
from training.evaluation.search.ranges import Value


class Trial(BaseModel):
    """One trial: its values, its best metric, and its final state."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    number: int
    values: dict[str, Value]
    figure: float | None = None
    images: int = 0
    # complete, pruned or diverged
    state: str
    folder: str


class Confirmation(BaseModel):
    """The metrics of the recipe and the best trial, each trained with the same other seeds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seeds: tuple[int, ...]
    metric: MetricName = "kernel_distance"
    reference: str
    recipe: tuple[float, ...]
    best: tuple[float, ...]

    @property
    def verdict(self) -> str:
        """The conclusion as text."""
        own, best = (sum(each) / len(each) for each in (self.recipe, self.best))
        means = f"{best:.5f} instead of {own:.5f} on average over {len(self.seeds)} seeds"
        cost = get_metric(self.metric).cost
        own_costs, best_costs = ([cost(v) for v in each] for each in (self.recipe, self.best))
        if max(best_costs) < min(own_costs):
            return f"the best trial is better than the recipe with every seed: {means}"
        if sum(best_costs) < sum(own_costs):
            return f"the best trial is better on average, but not with every seed: {means}"
        return f"the best trial is not better than the recipe with other seeds: {means}"


class SearchResult(BaseModel):
    """The result of a search."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipe: str
    metric: MetricName
    ranges: dict[str, Any]
    trials: tuple[Trial, ...]
    best: Trial | None
    confirmation: Confirmation | None = None

    @property
    def verdict(self) -> str:
        """The conclusion as text."""
        if self.best is None:
            return "no trial has finished"
        if self.best.number == 0:
            return "no trial was better than the recipe's own values"
        if self.confirmation is None:
            return (
                f"trial {self.best.number} was better than the recipe in one run each; confirm it "
                "with other seeds"
            )
        return self.confirmation.verdict
