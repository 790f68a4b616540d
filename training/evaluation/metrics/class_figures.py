"""Metrics per class: each class is compared with the real images of the same class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from training.evaluation.features.references import same_classes
from training.evaluation.metrics import Measurement, Measurements, Metric, evaluation_metrics
from training.evaluation.metrics.kernel_distance import kernel_distance
from training.evaluation.metrics.precision_recall import precision_recall
from training.evaluation.noise.results import ClassFigures

if TYPE_CHECKING:
    from training.evaluation.noise.inputs import EvaluationInputs

# Classes with fewer images are omitted.
_MIN_IMAGES = 20

INTRA_CLASS = Metric(
    name="intra_class_kernel_distance",
    title="kernel distance within classes",
    key="intra-class KID",
    better="lower",
    order=70,
    decimals=5,
    names_network=True,
    inception_key="intra-class KID",
)


@evaluation_metrics(INTRA_CLASS)
def measure_intra_class_distance(inputs: EvaluationInputs) -> Measurements:
    """Measure the mean over classes of the kernel distance within each class."""
    classes = inputs.once(measure_classes)
    if not classes:
        return {}
    real = [each.real for each in classes.values() if each.real is not None]
    return {
        INTRA_CLASS.name: Measurement(
            float(np.mean([each.kernel_distance for each in classes.values()])),
            real=float(np.mean(real)) if real else None,
            note=f"mean of {len(classes)} classes",
        )
    }


def measure_classes(inputs: EvaluationInputs) -> dict[str, ClassFigures]:
    """Return the metrics of each class by name; empty if the data set has different classes."""
    sets, names = inputs.features, inputs.target.classes
    if not same_classes(names, inputs.reference.against.images.class_names):
        return {}
    if sets.generated_labels is None or sets.real_labels is None:
        return {}
    figures = {}
    for index, name in enumerate(names):
        generated = sets.generated.vectors[sets.generated_labels == index]
        real = sets.real.vectors[sets.real_labels == index]
        if min(len(generated), len(real)) < _MIN_IMAGES:
            continue
        kernel, count = kernel_distance(generated, real), min(len(generated), len(real))
        scores = precision_recall(
            real[_sample(len(real), count)], generated[_sample(len(generated), count)]
        )
        baseline = None
        if sets.baseline_labels is not None and sets.baseline_reference is sets.real:
            baseline_rows = sets.baseline.vectors[sets.baseline_labels == index]
            if len(baseline_rows) >= _MIN_IMAGES:
                baseline = kernel_distance(baseline_rows, real).value
        assert kernel.low is not None  # noqa: S101 - a kernel distance has an interval
        assert kernel.high is not None  # noqa: S101
        figures[name] = ClassFigures(
            samples=len(generated),
            reference_samples=len(real),
            kernel_distance=kernel.value,
            low=kernel.low,
            high=kernel.high,
            real=baseline,
            precision=scores.precision,
            recall=scores.recall,
        )
    return figures


def _sample(total: int, count: int) -> slice | np.ndarray[tuple[int], np.dtype[np.int64]]:
    if total == count:
        return slice(None)
    return np.random.default_rng(0).permutation(total)[:count]
