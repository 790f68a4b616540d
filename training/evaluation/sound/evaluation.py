"""Measures generated sounds: class accuracy, Fréchet distance and the real-time factor."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.runtime.models.model import Model
from service.runtime.models.parts.measurements import Quality
from service.runtime.models.parts.outputs import AudioSpec
from service.runtime.models.parts.provenance import TrainingData
from training.data.images import DataOptions
from training.data.sounds.data import SoundData
from training.evaluation.errors import QualityError
from training.evaluation.features.references import same_classes
from training.evaluation.metrics.class_accuracy import CLASS_ACCURACY
from training.evaluation.metrics.frechet_distance import FRECHET_DISTANCE, Moments, frechet_distance
from training.evaluation.sound.classifier import (
    ClassifierSettings,
    SoundClassifier,
    trained_classifier,
)
from training.evaluation.sound.real_sounds import RealSounds, open_real_sounds

SAMPLES = 1_000
FEATURES = "MelCNN"
REAL_TIME_FACTOR = "real-time factor"
_BATCH = 16
# Sounds generated one by one for the real-time factor, after a first one.
_TIMED = 20

# Called with the stage, the number of processed sounds, and their total.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class SoundFigures:
    """The figures of a model of sounds, and the real sounds that it was measured with."""

    figures: tuple[Quality, ...]
    real: RealSounds


def evaluate_sounds(
    model: Model,
    data: DataOptions,
    record: TrainingData | None,
    *,
    replaced: bool = False,
    samples: int = SAMPLES,
    seed_start: int = 0,
    settings: ClassifierSettings | None = None,
    progress: Progress | None = None,
) -> SoundFigures:
    """Return the figures of a model of sounds.

    `data`, `record` and `replaced` are those of `open_real_sounds`. Sound i has the seed
    ``seed_start + i`` and the class i modulo the number of classes. Raises QualityError if the
    model and the data have different classes, or none; and the errors of `open_real_sounds`.
    """
    audio, names = model.manifest.audio, model.manifest.classes
    assert audio is not None  # noqa: S101 - the caller opens models of sounds only
    real = open_real_sounds(data, audio, record, replaced=replaced)
    if real.training.labels is None or len(real.training.class_names) < 2:
        raise QualityError(
            f"{real.title} has no classes: the classifier that measures sounds needs at least two"
        )
    if names and not same_classes(names, real.training.class_names):
        raise QualityError(
            f"{model.manifest.name} has the classes {', '.join(names)}, but {real.title} has "
            f"{', '.join(real.training.class_names)}"
        )
    show = progress or (lambda *_: None)
    classifier = trained_classifier(
        real.training,
        audio.sample_rate,
        settings,
        lambda done, total: show("training the classifier", done, total),
    )
    generated, requested = _generate(model, samples, seed_start, show)
    figures = []
    recognized, features = classifier.describe(generated)
    real_classes, real_features = classifier.describe(real.held_out.samples)
    network = f"a log-mel classifier trained on {len(real.training):,} real sounds"
    shared = Quality(
        metric=CLASS_ACCURACY.key,
        value=0,
        feature_network=network,
        reference=real.title,
        reference_sha256=_digest_of(real.training.samples),
        samples=samples,
        reference_samples=len(real.training),
        real_samples=len(real.held_out),
        seed_start=seed_start,
    )
    if names:
        accuracy = float((recognized == requested).mean())
        low, high = _interval(accuracy, samples)
        figures.append(
            shared.model_copy(
                update={
                    "value": accuracy,
                    "low": low,
                    "high": high,
                    "real": float((real_classes == real.held_out.labels).mean()),
                    "note": f"chance is {1 / len(names):.1%}; real: {real.held_out_note}",
                }
            )
        )
    # As many generated sounds as held-out ones, because the distance depends on their number. The
    # held-out ones are sorted by class.
    count = min(len(real.held_out), samples)
    some = np.random.default_rng(0).permutation(len(real.held_out))[:count]
    figures.append(
        shared.model_copy(
            update={
                "metric": f"{FRECHET_DISTANCE.key}-{FEATURES}",
                "value": _distance(classifier, features[:count], real.training),
                "real": _distance(classifier, real_features[some], real.training),
                "samples": count,
                "real_samples": count,
                "note": f"real: {count:,} of {len(real.held_out):,} held-out sounds",
            }
        )
    )
    figures.append(_real_time_factor(model, audio, shared))
    return SoundFigures(tuple(figures), real)


def _generate(
    model: Model, samples: int, seed_start: int, show: Progress
) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
    classes = len(model.manifest.classes)
    requested = np.arange(samples) % max(classes, 1)
    parts = []
    for start in range(0, samples, _BATCH):
        rows = range(start, min(start + _BATCH, samples))
        labels = requested[start : rows.stop].tolist() if classes else None
        parts.append(model.generate([seed_start + row for row in rows], labels))
        show("generating sounds", rows.stop, samples)
    return np.concatenate(parts), requested


def _distance(
    classifier: SoundClassifier, features: NDArray[np.float32], training: SoundData
) -> float:
    _, reference = classifier.describe(training.samples)
    return frechet_distance(Moments.of(features), Moments.of(reference))


def _real_time_factor(model: Model, audio: AudioSpec, shared: Quality) -> Quality:
    """Return the seconds of computation for a second of sound, one sound at a time."""
    model.generate([0])
    started = time.perf_counter()
    for seed in range(_TIMED):
        model.generate([seed])
    seconds = (time.perf_counter() - started) / _TIMED
    return _without_real(
        shared,
        metric=REAL_TIME_FACTOR,
        value=seconds / audio.seconds,
        samples=_TIMED,
        note="seconds of computation per second of sound on this machine, one sound at a time",
    )


def _without_real(shared: Quality, **fields: object) -> Quality:
    """Return a figure without a real value and feature network, and with other fields."""
    absent = {"real": None, "real_samples": None, "feature_network": None}
    return shared.model_copy(update={**absent, **fields})


def _interval(share: float, count: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a share (Wilson 1927)."""
    z = 1.96
    center = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count)
    half *= math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(center - half, 0.0), min(center + half, 1.0)


def _digest_of(samples: NDArray[np.int16]) -> str:
    return hashlib.sha256(repr(samples.shape).encode() + samples.tobytes()).hexdigest()
