"""Evaluation of models that generate images from noise, against real images."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.runtime.models.parts.measurements import Quality
from training.data.images import DataOptions, data_location
from training.data.provenance import check_training_data, description
from training.evaluation.errors import QualityError
from training.evaluation.evaluation import EvaluationSettings, Progress
from training.evaluation.features.cache import cached_features
from training.evaluation.features.networks import FeatureNetwork, Features, open_network
from training.evaluation.features.references import Reference, open_reference, same_classes
from training.evaluation.metrics import (
    DeclaredMetrics,
    FeatureMetrics,
    Measurement,
    Measurements,
    Metric,
    PairMetrics,
    groups,
)
from training.evaluation.metrics.class_accuracy import class_accuracy_of_target
from training.evaluation.metrics.class_figures import measure_classes
from training.evaluation.metrics.frechet_distance import (
    FRECHET_DISTANCE,
    frechet_distance,
    moments_of,
)
from training.evaluation.metrics.memorization import nearest_training_images
from training.evaluation.metrics.precision_recall import realism
from training.evaluation.noise.inputs import (
    REFERENCE_CHOICE,
    EvaluationInputs,
    EvaluationOptions,
    FeatureSets,
    default_reference_samples,
)
from training.evaluation.noise.report import NoiseResult
from training.evaluation.noise.results import ClassFigures, Evaluation, Point, ReportImages
from training.evaluation.noise.targets import NoiseTarget

# With fewer samples on either side, the Fréchet distance is unreliable.
_FEW_SAMPLES = 5_000
_MIN_SAMPLES = 10
# Numbers of images in a report.
_SHOWN = 64
_SHOWN_EXTREMES = 16


def evaluate(
    target: NoiseTarget,
    reference: Reference,
    network: FeatureNetwork,
    options: EvaluationOptions | None = None,
    progress: Progress | None = None,
) -> tuple[Evaluation, ReportImages | None]:
    """Measure `target` against `reference` with the features of `network`.

    The images are None without `options.report_images`. Raises QualityError if the sizes of the
    images differ, or if there are too few samples.
    """
    options = options or EvaluationOptions()
    started = time.monotonic()
    _check_size(target, reference)
    samples = _sample_count(target, options.samples)
    if samples < _MIN_SAMPLES:
        raise QualityError(f"{samples} samples are too few; at least {_MIN_SAMPLES} are needed")
    against = reference.against
    default = default_reference_samples(options.largest_samples or samples)
    rows = against.rows(options.reference_samples or default)
    by_default = options.reference_samples is None and len(rows) < len(against.images)
    pixels, features = _generate(target, samples, network, progress)
    sets = _feature_sets(features, target.labels(samples), reference, rows, network, progress)
    choice = REFERENCE_CHOICE if by_default else None
    inputs = EvaluationInputs(target, reference, network, options, pixels, sets, choice, progress)
    figures = tuple(_measure(inputs))
    distance = next(each for each in figures if FRECHET_DISTANCE.matches(each.metric))
    evaluation = Evaluation(
        subject=target.title,
        digest=None if target.model is None else target.model.digest,
        figures=figures,
        per_class=_classes(inputs),
        curve=tuple(_sample_curve(sets, distance)),
        feature_network=network.title,
        reference=against.title,
        reference_sha256=against.sha256,
        reference_choice=choice,
        held_out=reference.held_out,
        samples=samples,
        truncation=target.truncation,
        seeds=_seed_range(target, samples),
        warnings=tuple(_warnings(reference, sets, target)),
        seconds=round(time.monotonic() - started, 1),
    )
    return evaluation, _report_images(inputs) if options.report_images else None


def _report_images(inputs: EvaluationInputs) -> ReportImages:
    target, against, pixels = inputs.target, inputs.reference.against, inputs.pixels
    order = np.argsort(realism(inputs.features.real.vectors, inputs.features.generated.vectors))
    return ReportImages(
        samples=pixels[:_SHOWN],
        real=np.asarray(against.images.pixels[against.rows(_SHOWN)]),
        most_realistic=pixels[order[::-1][:_SHOWN_EXTREMES]],
        least_realistic=pixels[order[:_SHOWN_EXTREMES]],
        nearest=nearest_training_images(inputs),
        columns=len(target.classes) if 1 < len(target.classes) <= 12 else None,
        log=tuple(target.log),
    )


def evaluate_targets(
    targets: Sequence[NoiseTarget], settings: EvaluationSettings, progress: Progress | None
) -> list[NoiseResult]:
    """Evaluate targets on the same real images. Raises QualityError and DataError."""
    if len({(target.image.height, target.image.channels) for target in targets}) > 1:
        raise QualityError("images of different sizes cannot be compared")
    data = reference_data(targets[0], settings.data)
    samples = settings.samples or EvaluationOptions.samples
    options = EvaluationOptions(
        samples=samples,
        reference_samples=settings.reference_samples,
        largest_samples=max(_sample_count(target, samples) for target in targets),
        class_accuracy=settings.class_accuracy,
        report_images=settings.report_images,
    )
    network = open_network(settings.network)
    reference = open_reference(data, settings.split, progress)
    if settings.data is None and targets[0].trained_on is not None:
        check_training_data(targets[0].title, targets[0].trained_on, reference.training.images)
    return [
        NoiseResult(*evaluate(target, reference, network, options, progress)) for target in targets
    ]


def reference_data(target: NoiseTarget, data: str | None) -> DataOptions:
    """Return the data to measure against: `data`, or the training data of the target.

    Raises QualityError if neither is known.
    """
    if data is None:
        if target.data is None:
            known = target.trained_on and f"{description(target.trained_on)}; provide its images"
            raise QualityError(
                f"the training data of {target.title} is unknown: provide --data"
                if known is None
                else f"{target.title} was trained on {known} with --data PATH"
            )
        return target.data
    return DataOptions.model_validate(
        {
            **data_location(data),
            "resolution": target.image.height,
            "channels": target.image.channels,
            "flip": target.data is not None and target.data.flip,
        }
    )


def _sample_count(target: NoiseTarget, wanted: int) -> int:
    """Return the number of images of `target` to measure: all of a folder with fewer images."""
    return min(wanted, target.count or wanted)


def _check_size(target: NoiseTarget, reference: Reference) -> None:
    size = (target.image.height, target.image.width, target.image.channels)
    expected = reference.against.images.pixels.shape[1:]
    if size != expected:
        raise QualityError(
            f"{target.title} has images of shape {size}, but the real images have {expected}"
        )


def _generate(
    target: NoiseTarget, samples: int, network: FeatureNetwork, progress: Progress | None
) -> tuple[NDArray[np.uint8], Features]:
    """Generate `samples` images and return them with their features."""
    parts, done = [], 0
    for batch in target.batches(samples):
        parts.append(batch)
        done += len(batch)
        if progress:
            progress(f"generating images of {target.title}", done, samples)
    pixels = np.concatenate(parts)

    def show(done: int, total: int) -> None:
        if progress:
            progress(f"computing features of {target.title}", done, total)

    features = cached_features(network, pixels, show)
    if not np.isfinite(features.vectors).all():
        raise QualityError(f"{network.name} returns features that are not finite")
    return pixels, features


def _feature_sets(
    generated: Features,
    generated_labels: NDArray[np.int64] | None,
    reference: Reference,
    rows: NDArray[np.int64],
    network: FeatureNetwork,
    progress: Progress | None,
) -> FeatureSets:
    against, samples = reference.against, len(generated)
    real, real_labels = against.features(rows, network, progress), against.labels(rows)
    if reference.held_out:
        baseline_rows = reference.training.rows(samples)
        baseline = reference.training.features(baseline_rows, network, progress)
        baseline_labels = reference.training.labels(baseline_rows)
        baseline_reference = real
    else:
        # There is only one set of real images, so one half is compared with the other.
        order = np.random.default_rng(1).permutation(len(rows))
        half = min(samples, len(rows) // 2)
        taken, rest = np.sort(order[:half]), np.sort(order[half:])
        baseline, baseline_reference = real[taken], real[rest]
        baseline_labels = None if real_labels is None else real_labels[taken]
    return FeatureSets(
        generated,
        generated_labels,
        real,
        real_labels,
        baseline,
        baseline_labels,
        baseline_reference,
    )


def _measure(inputs: EvaluationInputs) -> Iterator[Quality]:
    """Measure all registered metrics that apply, in table order."""
    for group in groups():
        if isinstance(group, DeclaredMetrics | PairMetrics):
            continue
        if isinstance(group, FeatureMetrics):
            measurements = _measure_features(group, inputs)
        else:
            measurements = group.measure(inputs)
        for metric in group.metrics:
            if metric.name in measurements:
                yield _quality(metric, measurements[metric.name], inputs)


def _measure_features(group: FeatureMetrics, inputs: EvaluationInputs) -> Measurements:
    """Measure generated images, and the baseline's real images in the same way."""
    sets = inputs.features
    features = [sets.generated, sets.real, sets.baseline, sets.baseline_reference]
    details: dict[str, Any] = {}
    if group.equal_counts:
        count = min(map(len, features))
        # Without copies of the same set, so that its statistics are computed once.
        sampled = {id(each): _sample(each, count) for each in features}
        features = [sampled[id(each)] for each in features]
        details = dict.fromkeys(("samples", "reference_samples", "real_samples"), count)
    generated, real, baseline, baseline_reference = features
    values, of_real = (
        group.measure(generated, real),
        group.measure(baseline, baseline_reference),
    )
    return {
        name: Measurement(
            value=each.value,
            low=each.low,
            high=each.high,
            real=of_real[name].value if name in of_real else None,
            note=each.note,
            details=details,
        )
        for name, each in values.items()
    }


def _quality(metric: Metric, measurement: Measurement, inputs: EvaluationInputs) -> Quality:
    against = inputs.reference.against
    fields: dict[str, Any] = {
        "feature_network": inputs.network.title,
        "reference": against.title,
        "reference_sha256": against.sha256,
        "samples": len(inputs.features.generated),
        "reference_samples": len(inputs.features.real),
        "reference_choice": inputs.reference_choice,
        "resizing": inputs.network.resizing,
        "truncation": inputs.target.truncation,
        "seed_start": inputs.target.seed_start,
    }
    if measurement.real is not None:
        fields["real_samples"] = len(inputs.features.baseline)
    return Quality(
        metric=metric.result_key(inputs.network),
        value=float(measurement.value),
        low=measurement.low,
        high=measurement.high,
        real=measurement.real,
        note=measurement.note or metric.note,
        **fields | dict(measurement.details),
    )


def _classes(inputs: EvaluationInputs) -> dict[str, ClassFigures]:
    """Return the metrics of each class, including the class accuracy if it was measured."""
    classes = inputs.once(measure_classes)
    accuracy = inputs.once(class_accuracy_of_target)
    if accuracy is None:
        return classes
    return {
        name: figures.model_copy(update={"obedience": accuracy.per_class.get(name)})
        for name, figures in classes.items()
    }


def _sample(features: Features, count: int) -> Features:
    """Return `count` random rows, with a fixed seed."""
    if len(features) == count:
        return features
    return features[np.random.default_rng(0).permutation(len(features))[:count]]


def _sample_curve(sets: FeatureSets, full: Quality) -> Iterator[Point]:
    """Measure the Fréchet distance for an eighth, a quarter, a half and all of the samples.

    `full` is the Fréchet distance of all samples, which was measured before.
    """
    real, baseline_reference = sets.real.once(moments_of), sets.baseline_reference.once(moments_of)
    order = np.random.default_rng(0).permutation(len(sets.baseline))
    for divisor in (8, 4, 2, 1):
        count = len(sets.generated) // divisor
        if count < 2:
            continue
        made = full.value
        if divisor > 1:
            made = frechet_distance(moments_of(sets.generated[:count]), real)
        baseline = full.real if count == len(sets.baseline) else None
        if count < len(sets.baseline):
            rows = moments_of(sets.baseline[order[:count]])
            baseline = frechet_distance(rows, baseline_reference)
        yield Point(samples=count, made=made, real=baseline)


def _warnings(reference: Reference, sets: FeatureSets, target: NoiseTarget) -> Iterator[str]:
    few = min(len(sets.generated), len(sets.real))
    if few < _FEW_SAMPLES:
        yield (
            f"with {few:,} images on one side, the Fréchet distance is too large, by about its "
            "value for real images; use the kernel distance"
        )
    if not reference.held_out:
        yield (
            f"the reference ({reference.against.title}) may contain training images: a model that "
            "memorizes them would score well"
        )
    yield from (f"reference: {line}" for line in reference.against.images.warnings())
    for network in target.pretrained:
        yield (
            f"the images were judged by {network} in training: distances in the features of a "
            "similar network flatter the model, so compare it with others by eye, too"
        )
    record = target.trained_on
    if record is not None and record.fingerprint != reference.training.images.fingerprint:
        yield (
            f"the model was trained on other images ({description(record)}): memorization is "
            f"measured against {reference.training.title}, not against them"
        )
    if (
        target.data
        and target.model is not None
        and len(target.classes) > 1
        and not same_classes(target.classes, reference.against.images.class_names)
    ):
        yield "the data set and the model have different classes: single classes are not measured"


def _seed_range(target: NoiseTarget, samples: int) -> str | None:
    if target.seed_start is None:
        return None
    return f"{target.seed_start} to {target.seed_start + samples - 1}"
