"""Class accuracy: how often a class-conditional model generates the requested class.

A classifier that was trained on the real images classifies equally many generated images of each
class. Its accuracy on held-out real images limits the value and is therefore reported with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from service.runtime.models.model import Model
from service.runtime.models.parts.measurements import Quality
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from training.data.images import DataOptions, load_images
from training.evaluation.errors import QualityError
from training.evaluation.features.references import digest_of, same_classes
from training.evaluation.metrics import Measurement, Measurements, Metric, evaluation_metrics

if TYPE_CHECKING:
    from training.evaluation.features.classifier import ClassifierSettings
    from training.evaluation.noise.inputs import EvaluationInputs

SAMPLES = 5_000
_BATCH = 64

CLASS_ACCURACY = Metric(
    name="class_accuracy",
    title="class accuracy",
    key="class obedience",
    better="higher",
    order=80,
    unit="share",
)

# Called with the stage, the number of processed images, and their total.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ClassAccuracy:
    """The share of generated images that have the requested class, in total and by class name."""

    accuracy: float
    per_class: dict[str, float]
    quality: Quality


@evaluation_metrics(CLASS_ACCURACY)
def measure_class_accuracy_of_target(inputs: EvaluationInputs) -> Measurements:
    """Measure the class accuracy of an evaluation's model; empty if it cannot be measured."""
    result = inputs.once(class_accuracy_of_target)
    if result is None:
        return {}
    quality = result.quality
    shared = {"metric", "value", "low", "high", "real", "note"}
    details = {key: value for key, value in quality.model_dump().items() if key not in shared}
    return {CLASS_ACCURACY.name: Measurement(quality.value, details=details)}


def class_accuracy_of_target(inputs: EvaluationInputs) -> ClassAccuracy | None:
    """Return the class accuracy of an evaluation's model, or None if it cannot be measured."""
    target, training = inputs.target, inputs.reference.training
    if not inputs.options.class_accuracy or target.model is None:
        return None
    if not same_classes(target.classes, training.images.class_names):
        return None
    return measure_class_accuracy(
        target.model,
        inputs.reference.data.model_copy(update={"split": training.split, "crop": "centre"}),
        samples=inputs.options.samples,
        seed_start=target.seed_start or 0,
        truncation=target.truncation,
        progress=inputs.progress,
    )


def measure_class_accuracy(
    model: Model | Path,
    data: DataOptions,
    *,
    samples: int = SAMPLES,
    seed_start: int = 0,
    truncation: float | None = None,
    settings: ClassifierSettings | None = None,
    progress: Progress | None = None,
) -> ClassAccuracy:
    """Measure a model, or the model in a folder, with a classifier trained on `data`.

    Image i has the seed ``seed_start + i`` and the class i modulo the number of classes, so the
    classes are balanced. Raises QualityError if the model and the data set have different classes
    or sizes, and the errors of `Model` and `load_images`.
    """
    from training.evaluation.features.classifier import ClassifierSettings, trained_classifier

    if isinstance(model, Path):
        model = Model(model, Provider.CPU, ExecutionPlan(workers=1, threads=1, max_rows=_BATCH))
    names, image = model.manifest.classes, model.manifest.image_spec
    if not names:
        raise QualityError(f"{model.manifest.name} has no classes")
    images = load_images(data)
    if not same_classes(names, images.class_names):
        raise QualityError(
            f"{model.manifest.name} has the classes {', '.join(names)}, but the data set has "
            f"{', '.join(images.class_names) or 'none'}"
        )
    if (image.height, image.channels) != (data.resolution, data.channels):
        raise QualityError(
            f"{model.manifest.name} generates images of {image.height} pixels and {image.channels} "
            f"channels, but the data set has {data.resolution} pixels and {data.channels} channels"
        )
    settings = settings or ClassifierSettings(flip=data.flip)
    classifier = trained_classifier(
        images,
        data.resolution,
        settings,
        (lambda done, total: progress("training the classifier", done, total))
        if progress
        else None,
    )
    requested = np.arange(samples) % len(names)
    recognized = np.empty(samples, np.int64)
    for start in range(0, samples, _BATCH):
        rows = range(start, min(start + _BATCH, samples))
        seeds = [seed_start + row for row in rows]
        recognized[start : rows.stop] = classifier.classes_of(
            model.generate(
                seeds,
                requested[start : rows.stop].tolist(),
                None if truncation is None else [truncation] * len(seeds),
            )
        )
        if progress:
            progress("classifying generated images", rows.stop, samples)
    correct = recognized == requested
    accuracy = float(correct.mean())
    return ClassAccuracy(
        accuracy=accuracy,
        per_class={
            name: float(correct[requested == index].mean())
            for index, name in enumerate(names)
            if index < samples
        },
        quality=Quality(
            metric=CLASS_ACCURACY.key,
            value=accuracy,
            feature_network=(
                f"Ganymede's classifier, with an accuracy of {classifier.accuracy:.1%} on "
                f"{classifier.held_out:,} held-out real images"
            ),
            reference=f"{data.dataset_title}, split {data.split_name}",
            reference_sha256=digest_of(images.pixels),
            samples=samples,
            reference_samples=classifier.trained_on,
            truncation=truncation,
            seed_start=seed_start,
        ),
    )
