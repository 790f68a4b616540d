"""An evaluation: every figure of a subject against real pictures, each with what it rests on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.runtime.models.manifest import Quality
from training.evaluation.errors import QualityError
from training.evaluation.features.networks import FeatureNetwork, Features
from training.evaluation.features.references import Progress, Reference, same_classes
from training.evaluation.metrics.distribution import (
    Moments,
    frechet_distance,
    inception_score,
    kernel_distance,
)
from training.evaluation.metrics.memorization import Duplicates
from training.evaluation.metrics.path_length import STEP, path_length
from training.evaluation.metrics.precision_recall import DENSITY_K, coverage, mean_distance, realism
from training.evaluation.results import ClassFigures, Evaluation, Neighbours, Point, Shown
from training.evaluation.targets import EvaluationTarget

# Below so many samples on either side a Fréchet distance says little.
FEW = 5_000
_BATCH = 64
# A class with fewer pictures than this has no figures of its own.
_CLASS_ROWS = 20
_SPLITS = 10
# Shown in a report, of each kind.
_SHOWN = 64
_SHOWN_ENDS = 16
_NEIGHBOURS = 3
_STYLE_PATHS = 500


@dataclass(frozen=True)
class EvaluationOptions:
    """How much is measured."""

    samples: int = 5_000
    reference_samples: int = 10_000
    # Teaches a classifier, once for each data set: minutes on a CPU.
    obedience: bool = True
    paths: int = _STYLE_PATHS


@dataclass(frozen=True)
class _Sets:
    """Features of everything that is compared."""

    made: Features
    made_labels: NDArray[np.int64] | None
    real: Features
    real_labels: NDArray[np.int64] | None
    # Real pictures in place of the generated ones, none of them among `real`'s own.
    other: Features
    other_labels: NDArray[np.int64] | None
    # What `other` is held against: `real`, or the half of it that `other` was not taken from.
    other_against: Features


def evaluate(
    subject: EvaluationTarget,
    reference: Reference,
    network: FeatureNetwork,
    options: EvaluationOptions | None = None,
    progress: Progress | None = None,
) -> tuple[Evaluation, Shown]:
    """Measure `subject` against `reference` by the features of `network`.

    Raises QualityError when the two do not belong together, or there are too few samples.
    """
    options = options or EvaluationOptions()
    began = time.monotonic()
    _assert_fits(subject, reference)
    samples = min(options.samples, subject.count or options.samples)
    if samples < _SPLITS:
        raise QualityError(f"{samples} samples are too few to measure anything; {_SPLITS} will do")
    pixels, made = _look(subject, samples, network, progress)
    labels = subject.labels(samples)
    rows = reference.against.rows(options.reference_samples)
    sets = _sets(made, labels, reference, rows, samples, network, progress)
    figures = _Figures(subject, reference, network, sets)
    figures.distances()
    figures.manifold()
    figures.score()
    figures.diversity()
    nearest = figures.copies(pixels, progress)
    per_class = {}
    if same_classes(subject.classes, reference.against.pictures.class_names):
        per_class = _per_class(sets, subject.classes)
    if per_class:
        figures.intra_class(per_class)
    if options.obedience and subject.model is not None and subject.classes:
        per_class = figures.obedience(per_class, options.samples, progress)
    if subject.model is not None and subject.model.manifest.styles is not None:
        figures.path_length(options.paths, progress)
    order = np.argsort(realism(sets.real.vectors, made.vectors))
    evaluation = Evaluation(
        subject=subject.title,
        digest=None if subject.model is None else subject.model.digest,
        figures=tuple(figures.found),
        per_class=per_class,
        curve=tuple(_curve(sets)),
        feature_network=network.title,
        reference=reference.against.title,
        reference_sha256=reference.against.sha256,
        held_out=reference.held_out,
        samples=samples,
        truncation=subject.truncation,
        seeds=_seeds(subject, samples),
        warnings=tuple(_warnings(reference, sets, subject)),
        seconds=round(time.monotonic() - began, 1),
    )
    real_rows = reference.against.rows(_SHOWN)
    shown = Shown(
        samples=pixels[:_SHOWN],
        real=np.asarray(reference.against.pictures.pixels[real_rows]),
        best=pixels[order[::-1][:_SHOWN_ENDS]],
        worst=pixels[order[:_SHOWN_ENDS]],
        nearest=tuple(nearest),
        in_a_row=len(subject.classes) if 1 < len(subject.classes) <= 12 else None,
        log=tuple(subject.log),
    )
    return evaluation, shown


def _assert_fits(subject: EvaluationTarget, reference: Reference) -> None:
    image, pixels = subject.image, reference.against.pictures.pixels
    have = (image.height, image.width, image.channels)
    if have != pixels.shape[1:]:
        raise QualityError(
            f"{subject.title} has pictures of {have}, the data of {pixels.shape[1:]}"
        )


def _look(
    subject: EvaluationTarget, samples: int, network: FeatureNetwork, progress: Progress | None
) -> tuple[NDArray[np.uint8], Features]:
    pixels, parts, done = [], [], 0
    for batch in subject.pictures(samples):
        pixels.append(batch)
        parts.append(network.features(batch))
        done += len(batch)
        if progress:
            progress(f"making and looking at {subject.title}", done, samples)
    logits = [part.logits for part in parts if part.logits is not None]
    vectors = np.concatenate([part.vectors for part in parts])
    if not np.isfinite(vectors).all():
        raise QualityError(f"{network.name} gives features that are not finite")
    return np.concatenate(pixels), Features(vectors, np.concatenate(logits) if logits else None)


def _sets(
    made: Features,
    made_labels: NDArray[np.int64] | None,
    reference: Reference,
    rows: NDArray[np.int64],
    samples: int,
    network: FeatureNetwork,
    progress: Progress | None,
) -> _Sets:
    against = reference.against
    real, real_labels = against.features(rows, network, progress), against.labels(rows)
    if reference.held_out:
        other_rows = reference.training.rows(samples)
        other = reference.training.features(other_rows, network, progress)
        other_labels, other_against = reference.training.labels(other_rows), real
    else:
        # No second set of real pictures: one half of the reference against the other.
        order = np.random.default_rng(1).permutation(len(rows))
        taken = np.sort(order[: min(samples, len(rows) // 2)])
        left = np.sort(order[min(samples, len(rows) // 2) :])
        other, other_against = real[taken], real[left]
        other_labels = None if real_labels is None else real_labels[taken]
    return _Sets(made, made_labels, real, real_labels, other, other_labels, other_against)


class _Figures:
    """Collects figures, each with all that it rests on."""

    def __init__(
        self, subject: EvaluationTarget, reference: Reference, network: FeatureNetwork, sets: _Sets
    ) -> None:
        self._subject, self._reference = subject, reference
        self._network, self._sets = network, sets
        self.found: list[Quality] = []

    def add(self, metric: str, value: float, **more: Any) -> None:
        """Take in a figure on the network's features; `more` is laid over what all share."""
        against = self._reference.against
        shared: dict[str, Any] = {
            "feature_network": self._network.title,
            "reference": against.title,
            "reference_sha256": against.sha256,
            "samples": len(self._sets.made),
            "reference_samples": len(self._sets.real),
            "resizing": self._network.resizing,
            "truncation": self._subject.truncation,
            "seed_start": self._subject.seed_start,
        }
        if more.get("real") is not None:
            shared["real_samples"] = len(self._sets.other)
        self.found.append(Quality(metric=metric, value=float(value), **shared | more))

    def distances(self) -> None:
        """Kernel distance first: of few samples it alone can be read."""
        sets, name = self._sets, self._network.distance_name
        kernel = kernel_distance(sets.made.vectors, sets.real.vectors)
        other = kernel_distance(sets.other.vectors, sets.other_against.vectors)
        self.add(
            name("KID"),
            kernel.value,
            low=kernel.low,
            high=kernel.high,
            real=other.value,
            note="unbiased, over all pairs, with a 95% interval by the jackknife",
        )
        self.add(
            name("FD"),
            frechet_distance(Moments.of(sets.made.vectors), Moments.of(sets.real.vectors)),
            real=frechet_distance(
                Moments.of(sets.other.vectors), Moments.of(sets.other_against.vectors)
            ),
            note="too large where samples are few: read it beside that of real pictures",
        )

    def manifold(self) -> None:
        """Precision, recall, density and coverage, with as many rows on every side."""
        sets = self._sets
        vectors = [each.vectors for each in (sets.made, sets.real, sets.other, sets.other_against)]
        count = min(map(len, vectors))
        if count <= DENSITY_K:
            return
        made, real, other, other_against = (_some(each, count) for each in vectors)
        found, of_real = coverage(real, made), coverage(other_against, other)
        for metric in ("precision", "recall", "density", "coverage"):
            self.add(
                metric,
                getattr(found, metric),
                real=getattr(of_real, metric),
                samples=count,
                reference_samples=count,
                real_samples=count,
            )

    def score(self) -> None:
        """The Inception Score, where the network is a classifier and there are parts enough."""
        logits, other = self._sets.made.logits, self._sets.other.logits
        if logits is None:
            return
        mean, spread = inception_score(logits, _SPLITS)
        real = None
        if other is not None and len(other) >= _SPLITS:
            real = inception_score(other, _SPLITS)[0]
        name = self._network.name
        self.add(
            "IS" if self._network.is_standard_inception else f"IS-{name}",
            mean,
            real=real,
            note=f"over {_SPLITS} parts, which differ by {spread:.2g} (standard deviation)",
        )

    def diversity(self) -> None:
        """How far apart two pictures of a batch are, in units of real ones."""
        unit = mean_distance(self._sets.real.vectors, _BATCH)
        self.add(
            "diversity",
            mean_distance(self._sets.made.vectors, _BATCH) / max(unit, 1e-12),
            real=mean_distance(self._sets.other.vectors, _BATCH) / max(unit, 1e-12),
            note=f"mean distance of features in batches of {_BATCH}; that of the reference is 1",
        )

    def copies(self, pixels: NDArray[np.uint8], progress: Progress | None) -> list[Neighbours]:
        """Duplicates, and pictures that training has shown; return the nearest of these."""
        training = self._reference.training
        mirrored = self._reference.data.flip or bool(self._subject.data and self._subject.data.flip)
        if progress:
            progress("looking for copies", 0, 1)
        look = Duplicates(training.pictures.pixels, mirrored=mirrored)
        # As many real ones that are not the training's own: the held-out ones, if there are any.
        others = None
        if self._reference.held_out:
            against = self._reference.against
            others = np.asarray(against.pictures.pixels[against.rows(len(pixels))])
        distances, rows = look.nearest(pixels, _NEIGHBOURS)
        shared = {"feature_network": None, "resizing": "averaged to 16×16, no network"}
        compared = {
            "reference": training.title,
            "reference_sha256": training.sha256,
            "reference_samples": len(training.pictures),
        }
        real: dict[str, float | None] = dict.fromkeys(("twins", "memorised", "ratio"))
        if others is not None:
            real_distances = look.nearest(others)[0][:, 0]
            real["twins"] = float(look.twins(others).mean())
            real["memorised"] = float((real_distances <= 1).mean())
            real["ratio"] = float(np.median(distances[:, 0]) / max(np.median(real_distances), 1e-9))
        count = {} if others is None else {"real_samples": len(others)}
        self.add(
            "duplicates",
            float(look.twins(pixels).mean()),
            real=real["twins"],
            note="the share of samples that equal another one to the eye",
            **shared | compared | count,
        )
        self.add(
            "memorised",
            float((distances[:, 0] <= 1).mean()),
            real=real["memorised"],
            note="the share of samples that equal a training picture to the eye",
            **shared | compared | count,
        )
        if real["ratio"] is not None:
            self.add(
                "training distance",
                real["ratio"],
                real=1.0,
                note="the median distance to the nearest training picture, in units of that of "
                "held-out pictures; well below 1 is learning by heart",
                **shared | compared | count,
            )
        if progress:
            progress("looking for copies", 1, 1)
        return [
            Neighbours(
                pixels[row],
                np.asarray(training.pictures.pixels[rows[row]]),
                float(distances[row, 0]),
            )
            for row in np.argsort(distances[:, 0])[:_SHOWN_ENDS]
        ]

    def intra_class(self, per_class: Mapping[str, ClassFigures]) -> None:
        """The mean over classes of the kernel distance inside each."""
        reals = [each.real for each in per_class.values() if each.real is not None]
        self.add(
            f"intra-class {self._network.distance_name('KID')}",
            float(np.mean([each.kernel_distance for each in per_class.values()])),
            real=float(np.mean(reals)) if reals else None,
            note=f"the mean over {len(per_class)} classes",
        )

    def obedience(
        self, per_class: dict[str, ClassFigures], samples: int, progress: Progress | None
    ) -> dict[str, ClassFigures]:
        """Class obedience by a classifier that learns from the training split, for each class."""
        # It teaches by PyTorch, which nothing else here needs.
        from training.evaluation.metrics.class_accuracy import measure_class_accuracy  # noqa: PLC0415

        subject, training = self._subject, self._reference.training
        if not same_classes(subject.classes, training.pictures.class_names):
            return per_class
        assert subject.model is not None  # noqa: S101 - asked for models alone
        data = self._reference.data.model_copy(update={"split": training.split, "crop": "centre"})
        found = measure_class_accuracy(
            subject.model,
            data,
            samples=samples,
            seed_start=subject.seed_start or 0,
            truncation=subject.truncation,
            progress=progress,
        )
        self.found.append(found.quality)
        return {
            name: figures.model_copy(update={"obedience": found.per_class.get(name)})
            for name, figures in per_class.items()
        }

    def path_length(self, paths: int, progress: Progress | None) -> None:
        """Perceptual path length in w."""
        assert self._subject.model is not None  # noqa: S101 - asked for models alone

        def show(done: int, total: int) -> None:
            if progress:
                progress("walking between styles", done, total)

        found = path_length(
            self._subject.model, self._network, paths, self._subject.seed_start or 0, show
        )
        self.add(
            f"path length-{self._network.name}",
            found.value,
            samples=found.paths,
            truncation=1.0 if self._subject.truncation is not None else None,
            note=f"in w, steps of {STEP:g}; no published figure has this distance and step",
        )


def _per_class(sets: _Sets, names: tuple[str, ...]) -> dict[str, ClassFigures]:
    """Hold each class against the real pictures of it."""
    if sets.made_labels is None or sets.real_labels is None:
        return {}
    figures = {}
    for index, name in enumerate(names):
        made = sets.made.vectors[sets.made_labels == index]
        real = sets.real.vectors[sets.real_labels == index]
        if min(len(made), len(real)) < _CLASS_ROWS:
            continue
        kernel, count = kernel_distance(made, real), min(len(made), len(real))
        found = coverage(_some(real, count), _some(made, count))
        own = None
        if sets.other_labels is not None and sets.other_against is sets.real:
            others = sets.other.vectors[sets.other_labels == index]
            if len(others) >= _CLASS_ROWS:
                own = kernel_distance(others, real).value
        figures[name] = ClassFigures(
            samples=len(made),
            reference_samples=len(real),
            kernel_distance=kernel.value,
            low=kernel.low,
            high=kernel.high,
            real=own,
            precision=found.precision,
            recall=found.recall,
        )
    return figures


def _some(vectors: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Return `count` rows, drawn once and for all."""
    if len(vectors) == count:
        return vectors
    return vectors[np.random.default_rng(0).permutation(len(vectors))[:count]]


def _curve(sets: _Sets) -> Iterator[Point]:
    """Measure the Fréchet distance at an eighth, a quarter, a half and all of the samples."""
    whole, against = Moments.of(sets.real.vectors), Moments.of(sets.other_against.vectors)
    for parts in (8, 4, 2, 1):
        count = len(sets.made) // parts
        if count < 2:
            continue
        made = frechet_distance(Moments.of(sets.made.vectors[:count]), whole)
        real = None
        if count <= len(sets.other):
            some = np.random.default_rng(0).permutation(len(sets.other))[:count]
            real = frechet_distance(Moments.of(sets.other.vectors[some]), against)
        yield Point(samples=count, made=made, real=real)


def _warnings(reference: Reference, sets: _Sets, subject: EvaluationTarget) -> Iterator[str]:
    few = min(len(sets.made), len(sets.real))
    if few < FEW:
        yield (
            f"{few:,} pictures on one side are few: the Fréchet distance is too large by about "
            "that of real pictures beside it; go by the kernel distance"
        )
    if not reference.held_out:
        yield (
            f"the reference ({reference.against.title}) is what was trained on, or may be: "
            "learning by heart would score well"
        )
    if (
        subject.data
        and subject.model is not None
        and len(subject.classes) > 1
        and not same_classes(subject.classes, reference.against.pictures.class_names)
    ):
        yield "the data have other classes than the model: nothing is said by class"


def _seeds(subject: EvaluationTarget, samples: int) -> str | None:
    if subject.seed_start is None:
        return None
    return f"{subject.seed_start} to {subject.seed_start + samples - 1}"
