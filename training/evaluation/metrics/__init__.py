"""The metrics, one module each, and their registry.

To add a metric, add a module to this package. It contains a function with one of the decorators
below. For each number that the function returns, it declares a `Metric` with a name, a direction
and a unit. The metric then appears in `ganymede evaluate`, in `ganymede compare` and in reports. If
it is `selectable`, it is also a value of `evaluate.metric` in recipes.

Recipes are validated against the registry, and training must work without the extra `quality`. The
modules therefore import SciPy, scikit-learn and PyTorch inside their functions.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator

if TYPE_CHECKING:
    from training.evaluation.features.networks import FeatureNetwork, Features
    from training.evaluation.metrics.pairs import ImagePairs
    from training.evaluation.noise.inputs import EvaluationInputs

Better = Literal["lower", "higher", "as real"]


@dataclass(frozen=True)
class Metric:
    """The description of one number: its names, unit and direction.

    `better` is the direction. ``as real`` means that the best value is the value of real images.
    """

    # The name in recipes, in the log of a run, and in TensorBoard.
    name: str
    # The name in text and tables.
    title: str
    # The key in manifests and JSON results. If `names_network`, the feature network is appended.
    key: str
    better: Better
    # The position in tables and in a manifest's `quality`.
    order: int
    # "share": a number from 0 to 1 that is displayed in percent.
    unit: Literal["", "share", "dB"] = ""
    decimals: int = 3
    names_network: bool = False
    # The key with the standard Inception weights, the only network with published values.
    inception_key: str | None = None
    # Whether the metric is measured during training.
    in_validation: bool = False
    # Whether the metric is a valid `evaluate.metric`.
    selectable: bool = False
    # For metrics of pairs: whether values of single pairs are reported and compared.
    per_pair: bool = True
    # How to interpret the value. A measurement can override it.
    note: str | None = None

    def result_key(self, network: FeatureNetwork) -> str:
        """Return the key of the metric when measured with `network`."""
        if not self.names_network:
            return self.key
        if self.inception_key is not None and network.is_standard_inception:
            return self.inception_key
        return f"{self.key}-{network.name}"

    def matches(self, key: str) -> bool:
        """Return True if `key` is the name of this metric or the key of one of its results."""
        if key in (self.name, self.key, self.inception_key):
            return True
        return self.names_network and key.startswith(f"{self.key}-")

    @property
    def higher_is_better(self) -> bool:
        """True if higher values are better."""
        return self.better == "higher"

    @property
    def arrow(self) -> str:
        """``↓`` if lower is better, ``↑`` if higher is better, otherwise an empty string."""
        return {"lower": "↓", "higher": "↑", "as real": ""}[self.better]

    def cost(self, value: float) -> float:
        """Return a number that is lower for better values."""
        return -value if self.higher_is_better else value

    def format(self, value: float | None) -> str:
        """Return a value with its significant digits, or an empty string for None."""
        if value is None:
            return ""
        if self.unit == "share":
            return f"{value:.1%}"
        return f"{value:.1f}" if abs(value) >= 100 else f"{value:.{self.decimals}f}"


@dataclass(frozen=True)
class Measurement:
    """The value of a metric, with a 95% confidence interval if one is known.

    `real` is the value of real images that were not used as the reference.
    """

    value: float
    low: float | None = None
    high: float | None = None
    real: float | None = None
    note: str | None = None
    # Fields of the manifest's `Quality` that differ from the other metrics.
    details: Mapping[str, Any] = field(default_factory=dict)


# Measurements by the metric's name. Metrics that cannot be measured are omitted.
Measurements = Mapping[str, Measurement]
FeatureFunction = Callable[["Features", "Features"], Measurements]
EvaluationFunction = Callable[["EvaluationInputs"], Measurements]
PairFunction = Callable[["ImagePairs"], Mapping[str, NDArray[np.float64]]]


@dataclass(frozen=True)
class FeatureMetrics:
    """Metrics that compare the features of generated images with the features of real images.

    If `equal_counts` is True, the values depend on the number of rows, so both sets must have the
    same number.
    """

    metrics: tuple[Metric, ...]
    measure: FeatureFunction
    equal_counts: bool


@dataclass(frozen=True)
class EvaluationMetrics:
    """Metrics that need more than features, such as pixels, labels or the model."""

    metrics: tuple[Metric, ...]
    measure: EvaluationFunction


@dataclass(frozen=True)
class PairMetrics:
    """Metrics that compare generated images with their targets: one value per pair, ``[N]``."""

    metrics: tuple[Metric, ...]
    measure: PairFunction


@dataclass(frozen=True)
class DeclaredMetrics:
    """Metrics of one kind of model, which the package of its evaluation measures."""

    metrics: tuple[Metric, ...]


Group = FeatureMetrics | EvaluationMetrics | PairMetrics | DeclaredMetrics
_GROUPS: list[Group] = []


def feature_metrics(
    *metrics: Metric, equal_counts: bool = False
) -> Callable[[FeatureFunction], FeatureFunction]:
    """Decorator that registers a function of the features of generated and of real images."""

    def register(function: FeatureFunction) -> FeatureFunction:
        _GROUPS.append(FeatureMetrics(metrics, function, equal_counts))
        return function

    return register


def evaluation_metrics(*metrics: Metric) -> Callable[[EvaluationFunction], EvaluationFunction]:
    """Decorator that registers a function of all inputs of an evaluation."""

    def register(function: EvaluationFunction) -> EvaluationFunction:
        _GROUPS.append(EvaluationMetrics(metrics, function))
        return function

    return register


def pair_metrics(*metrics: Metric) -> Callable[[PairFunction], PairFunction]:
    """Decorator that registers a function of generated images and their targets."""

    def register(function: PairFunction) -> PairFunction:
        _GROUPS.append(PairMetrics(metrics, function))
        return function

    return register


def declare_metrics(*metrics: Metric) -> None:
    """Register metrics that the package of an evaluation measures."""
    _GROUPS.append(DeclaredMetrics(metrics))


@cache
def groups() -> tuple[Group, ...]:
    """Import every module of this package and return the registered groups, in table order."""
    for module in pkgutil.iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
    return tuple(sorted(_GROUPS, key=lambda group: group.metrics[0].order))


@cache
def all_metrics() -> tuple[Metric, ...]:
    """Return every metric, in table order."""
    metrics = [metric for group in groups() for metric in group.metrics]
    return tuple(sorted(metrics, key=lambda metric: metric.order))


def pair_metric_names(*, per_pair: bool = False) -> tuple[str, ...]:
    """Return the names of the metrics of pairs. With `per_pair`, only metrics reported per pair."""
    names = {m.name for group in groups() if isinstance(group, PairMetrics) for m in group.metrics}
    return tuple(m.name for m in all_metrics() if m.name in names and (m.per_pair or not per_pair))


def selectable_metrics(kind: Literal["features", "pairs"], default: str) -> tuple[str, ...]:
    """Return the names of the metrics of this kind that can select a checkpoint.

    `default` comes first.
    """
    group_type = FeatureMetrics if kind == "features" else PairMetrics
    names = [
        metric.name
        for group in groups()
        if isinstance(group, group_type)
        for metric in group.metrics
        if metric.selectable
    ]
    return (default, *(name for name in names if name != default))


def get_metric(name: str) -> Metric:
    """Return the metric with this name. Raises KeyError for an unknown name."""
    return {metric.name: metric for metric in all_metrics()}[name]


def find_metric(key: str) -> Metric | None:
    """Return the metric of a result by its key, or None if the key is unknown.

    For a model with two directions, the key ends with the direction: ``PSNR, photo_to_sketch``.
    """
    key = key.partition(", ")[0]
    return next((metric for metric in all_metrics() if metric.matches(key)), None)


def _selectable(name: str) -> str:
    names = [metric.name for metric in all_metrics() if metric.selectable]
    if name not in names:
        raise ValueError(f"expected one of {', '.join(names)}, got {name!r}")
    return name


# The name of a metric that can select the best checkpoint of a run.
MetricName = Annotated[str, AfterValidator(_selectable)]


def validate_features(generated: Features, real: Features) -> dict[str, float]:
    """Return the metrics that are measured during training, by name.

    The key of the upper end of a confidence interval is ``NAME_high``. Metrics that need equal
    counts use the first rows of the larger set, so both sets must be in random order.
    """
    values: dict[str, float] = {}
    for group in groups():
        wanted = [metric.name for metric in group.metrics if metric.in_validation]
        if not isinstance(group, FeatureMetrics) or not wanted:
            continue
        a, b = generated, real
        if group.equal_counts:
            count = min(len(generated), len(real))
            a, b = generated[:count], real[:count]
        for name, measurement in group.measure(a, b).items():
            if name in wanted:
                values[name] = measurement.value
                if measurement.high is not None:
                    values[f"{name}_high"] = measurement.high
    return values
