"""Class obedience: how often a class-conditional generator makes what it is asked for.

A classifier that learnt from the real pictures judges generated ones, the same number of each
class, and the figure is how often it finds the class that was asked for. It cannot be read without
how often the classifier is right on real pictures, so that is part of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from service.runtime.models.manifest import Quality
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from training.data.images import DataOptions, load_images
from training.evaluation.errors import QualityError
from training.evaluation.features.classifier import ClassifierSettings, trained_classifier
from training.evaluation.features.references import digest_of, same_classes

CLASS_OBEDIENCE = "class obedience"
SAMPLES = 5_000
_BATCH = 64

# Hears what is being done, how much of it has been, and of how much.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ClassAccuracy:
    """How often the class asked for is the class found: over all, and for each class by name."""

    agreement: float
    per_class: dict[str, float]
    quality: Quality


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
    """Measure a model, or the one in a folder, against the pictures that `data` name.

    Picture i has seed ``seed_start + i`` and class i modulo their number, so classes are balanced
    up to one picture. Raises QualityError when model and data do not have the same classes, and
    what `Model` and `prepare` raise.
    """
    if isinstance(model, Path):
        model = Model(model, Provider.CPU, ExecutionPlan(workers=1, threads=1, max_rows=_BATCH))
    names, image = model.manifest.classes, model.manifest.image
    if not names:
        raise QualityError(f"{model.manifest.name} has no classes that it could obey")
    pictures = load_images(data)
    if not same_classes(names, pictures.class_names):
        raise QualityError(
            f"{model.manifest.name} has the classes {', '.join(names)}, "
            f"and the data have {', '.join(pictures.class_names) or 'none'}"
        )
    if (image.height, image.channels) != (data.resolution, data.channels):
        raise QualityError(
            f"{model.manifest.name} makes pictures of {image.height} pixels in {image.channels} "
            f"channels, and the data have {data.resolution} in {data.channels}"
        )
    settings = settings or ClassifierSettings(flip=data.flip)
    classifier = trained_classifier(
        pictures,
        data.resolution,
        settings,
        (lambda done, total: progress("teaching the classifier", done, total))
        if progress
        else None,
    )
    asked = np.arange(samples) % len(names)
    found = np.empty(samples, np.int64)
    for start in range(0, samples, _BATCH):
        rows = range(start, min(start + _BATCH, samples))
        seeds = [seed_start + row for row in rows]
        found[start : rows.stop] = classifier.classes_of(
            model.generate(
                seeds,
                asked[start : rows.stop].tolist(),
                None if truncation is None else [truncation] * len(seeds),
            )
        )
        if progress:
            progress("judging generated pictures", rows.stop, samples)
    agrees = found == asked
    agreement = float(agrees.mean())
    return ClassAccuracy(
        agreement=agreement,
        per_class={
            name: float(agrees[asked == index].mean())
            for index, name in enumerate(names)
            if index < samples
        },
        quality=Quality(
            metric=CLASS_OBEDIENCE,
            value=agreement,
            feature_network=(
                f"Ganymede's classifier, itself right on {classifier.accuracy:.1%} of "
                f"{classifier.held_out:,} real pictures that it had not seen"
            ),
            reference=f"{data.title}, split {data.split}",
            reference_sha256=digest_of(pictures.pixels),
            samples=samples,
            reference_samples=classifier.learnt_from,
            truncation=truncation,
            seed_start=seed_start,
        ),
    )
