"""The quality of images that a model's discriminator selects, by method and share.

A smaller share has better images and less variety: the kernel distance and the precision measure
the gain, the recall what it costs. All shares are measured with equally many images, because recall
depends on their number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.runtime.generation import execute, image_plan, score_plan
from service.runtime.latent.seeds import MAX_SEED
from service.runtime.latent.sources import LatentSource
from service.runtime.models.model import Model
from service.runtime.models.parts.additions import ScoreCalibration, SelectionFigure
from service.runtime.models.parts.graphs import DISCRIMINATOR
from service.runtime.ranking import CandidateGroup, Method, Selection, kept_candidates
from training.evaluation.errors import QualityError
from training.evaluation.evaluation import EvaluationSettings, Progress
from training.evaluation.features.cache import cached_features
from training.evaluation.features.networks import FeatureNetwork, Features, open_network
from training.evaluation.features.references import RealImages, open_reference, same_classes
from training.evaluation.metrics.kernel_distance import measure_kernel_distance
from training.evaluation.metrics.precision_recall import measure_precision_recall
from training.evaluation.noise.evaluation import reference_data
from training.evaluation.noise.inputs import default_reference_samples
from training.evaluation.noise.targets import NoiseTarget
from training.evaluation.report.document import Note, Section, Table

SHARES = (1.0, 0.5, 0.25, 0.1)
SAMPLES = 1000
_METHODS: tuple[Method, ...] = ("rank", "rejection")
_MIN_SAMPLES = 10
_ROWS = 16
# Images whose pixels are in memory at the same time.
_CHUNK = 512
# A smaller slope means that scores do not separate real images from generated ones.
_MIN_SCALE = 1e-3


@dataclass(frozen=True)
class SelectionResult:
    """The calibration of a discriminator's scores, and the quality of the selected images."""

    title: str
    digest: str
    calibration: ScoreCalibration
    figures: tuple[SelectionFigure, ...]
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the result as a JSON object."""
        return {
            "model": self.title,
            "digest": self.digest,
            "calibration": self.calibration.model_dump(mode="json"),
            "figures": [figure.model_dump(mode="json") for figure in self.figures],
            "warnings": list(self.warnings),
        }

    def summary(self) -> Section:
        """Return the figures and the measurement conditions as a report section."""
        first = self.figures[0]
        notes = [
            Note(
                f"{first.samples:,} images of each share of {first.candidates:,} candidates "
                f"against {first.reference}"
            ),
            Note(f"features: {first.feature_network}"),
            Note(f"density ratio for rejection: exp({self.calibration.scale:.3g} · score)"),
            *(Note(text, is_warning=True) for text in self.warnings),
        ]
        rows = [
            [
                figure.method if figure.share < 1 else "all",
                f"{figure.share:.0%}",
                f"{figure.kernel_distance:.5f}",
                f"{figure.low:.5f} to {figure.high:.5f}",
                f"{figure.precision:.1%}",
                f"{figure.recall:.1%}",
            ]
            for figure in self.figures
        ]
        head = ["selection", "kept", "KID ↓", "95% interval", "precision ↑", "recall ↑"]
        return Section(f"{self.title}, selected by its discriminator", [*notes, Table(head, rows)])


def measure_selection(
    target: NoiseTarget,
    settings: EvaluationSettings,
    progress: Progress | None = None,
    shares: Sequence[float] = SHARES,
) -> SelectionResult:
    """Measure what both methods keep of the same candidates, for each of `shares`.

    The candidates have consecutive seeds, as many of each class. Raises QualityError for a model
    without a discriminator, and DataError.
    """
    model = target.model
    if model is None or DISCRIMINATOR not in model.manifest.graphs:
        raise QualityError(
            f"{target.title} has no discriminator; ganymede export --discriminator adds it"
        )
    samples = settings.samples or SAMPLES
    if samples < _MIN_SAMPLES:
        raise QualityError(f"{samples} samples are too few; at least {_MIN_SAMPLES} are needed")
    network = open_network(settings.network)
    reference = open_reference(reference_data(target, settings.data), settings.split, progress)
    against = reference.against
    rows = against.rows(settings.reference_samples or default_reference_samples(samples))
    pool = _Pool(target, model, Selection(min(shares)).candidates(samples), progress)
    scores = pool.scores()
    calibration, warnings = _calibration(model, against, rows, scores)
    chosen = {
        (method, share): _sample(pool.kept(scores, Selection(share, method), calibration), samples)
        for share in shares
        for method in (_METHODS if share < 1 else _METHODS[:1])
    }
    features = pool.features(np.unique(np.concatenate(list(chosen.values()))), network)
    real = against.features(rows, network, progress)
    count = min(samples, len(real))
    figures = []
    for (method, share), numbers in chosen.items():
        kept = features.of(numbers)
        distance = measure_kernel_distance(kept, real)["kernel_distance"]
        manifold = measure_precision_recall(kept[:count], real[:count])
        figures.append(
            SelectionFigure(
                method=method,
                share=share,
                kernel_distance=distance.value,
                low=distance.low,
                high=distance.high,
                precision=manifold["precision"].value,
                recall=manifold["recall"].value,
                samples=len(kept),
                candidates=len(scores),
                reference=against.title,
                feature_network=network.title,
            )
        )
    return SelectionResult(target.title, model.digest, calibration, tuple(figures), warnings)


@dataclass(frozen=True)
class _FeaturesByCandidate:
    features: Features
    row_of: Mapping[int, int]

    def of(self, numbers: NDArray[np.int64]) -> Features:
        """Return the features of candidates."""
        return self.features[np.array([self.row_of[int(number)] for number in numbers])]


class _Pool:
    """Candidates with consecutive seeds, equally many of each class."""

    def __init__(
        self, target: NoiseTarget, model: Model, count: int, progress: Progress | None
    ) -> None:
        self._model, self._progress, self._title = model, progress, target.title
        classes = len(model.manifest.classes)
        per_class = -(-count // max(classes, 1))
        first = target.seed_start or 0
        if first + per_class * max(classes, 1) - 1 > MAX_SEED:
            raise QualityError(f"there are not enough seeds from {first}")
        self._ranges: list[tuple[LatentSource, range]] = []
        for i in range(max(classes, 1)):
            condition = LatentSource(
                first, classes={i: 1.0} if classes else None, truncation=target.truncation
            )
            start = first + i * per_class
            self._ranges.append((condition, range(start, start + per_class)))
        self._sources = [
            source
            for condition, seeds in self._ranges
            for source in CandidateGroup(condition, seeds, ()).sources()
        ]

    def scores(self) -> NDArray[np.float32]:
        """Return the score of each candidate."""
        parts = []
        for sources, pixels in self._images(np.arange(len(self._sources)), "scoring candidates"):
            plan = score_plan(self._model.manifest, sources, pixels)
            parts.append(execute(plan, self._model.run, _ROWS))
        return np.concatenate(parts)

    def kept(
        self, scores: NDArray[np.float32], selection: Selection, calibration: ScoreCalibration
    ) -> NDArray[np.int64]:
        """Return the numbers of the candidates that a selection keeps, as in the service."""
        groups, position = [], 0
        for condition, seeds in self._ranges:
            count = max(round(selection.share * len(seeds)), 1)
            positions = tuple(range(position, position + count))
            groups.append(CandidateGroup(condition, seeds, positions))
            position += count
        return np.array(kept_candidates(groups, scores, selection, calibration))

    def features(self, numbers: NDArray[np.int64], network: FeatureNetwork) -> _FeaturesByCandidate:
        """Return the features of candidates."""
        parts: list[Features] = []
        pending: list[NDArray[np.uint8]] = []
        for i, (_, pixels) in enumerate(self._images(numbers, "computing features")):
            pending.append(pixels)
            if (i + 1) * _ROWS % _CHUNK == 0 or (i + 1) * _ROWS >= len(numbers):
                parts.append(cached_features(network, np.concatenate(pending)))
                pending = []
        vectors = np.concatenate([part.vectors for part in parts])
        return _FeaturesByCandidate(
            Features(vectors), {int(number): row for row, number in enumerate(numbers)}
        )

    def _images(
        self, numbers: NDArray[np.int64], stage: str
    ) -> Iterator[tuple[list[LatentSource], NDArray[np.uint8]]]:
        for start in range(0, len(numbers), _ROWS):
            sources = [self._sources[number] for number in numbers[start : start + _ROWS]]
            plan = image_plan(self._model.manifest, sources)
            yield sources, execute(plan, self._model.run, _ROWS)
            if self._progress:
                done = min(start + _ROWS, len(numbers))
                self._progress(f"{stage} of {self._title}", done, len(numbers))


def _sample(numbers: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return `count` of the numbers at random, with a fixed seed."""
    return np.random.default_rng(0).permutation(numbers)[:count]


def _calibration(
    model: Model, against: RealImages, rows: NDArray[np.int64], generated: NDArray[np.float32]
) -> tuple[ScoreCalibration, tuple[str, ...]]:
    """Fit the density ratio of real and generated images to their scores, and return warnings.

    Logistic regression estimates the logarithm of the ratio as a linear function of the score
    (Platt 1999); only its slope matters for the selection.
    """
    maximum, count = float(generated.max()), len(generated)
    manifest = model.manifest
    labels = against.labels(rows)
    if manifest.classes and (
        labels is None or not same_classes(manifest.classes, against.images.class_names)
    ):
        warning = "the real images do not have the model's classes: scores are not calibrated"
        return ScoreCalibration(scale=1.0, maximum=maximum, samples=count), (warning,)
    parts = []
    for start in range(0, len(rows), _ROWS):
        batch = slice(start, start + _ROWS)
        sources = [
            LatentSource(0, classes=None if labels is None or not manifest.classes else {int(k): 1})
            for k in (np.zeros(len(rows[batch]), int) if labels is None else labels[batch])
        ]
        pixels = np.asarray(against.images.pixels[rows[batch]])
        parts.append(execute(score_plan(manifest, sources, pixels), model.run, _ROWS))
    real = np.concatenate(parts)
    slope = _log_ratio_slope(real, generated)
    warnings: tuple[str, ...] = ()
    if slope < _MIN_SCALE:
        warnings = (
            "held-out real images do not score higher than generated ones: the discriminator "
            "cannot tell which images are better",
        )
        slope = _MIN_SCALE
    calibration = ScoreCalibration(
        scale=slope, maximum=maximum, samples=count, reference=against.title
    )
    return calibration, warnings


def _log_ratio_slope(real: NDArray[np.float32], generated: NDArray[np.float32]) -> float:
    """Return the slope of a logistic regression of real on generated scores, equally weighted."""
    from scipy.optimize import minimize  # noqa: PLC0415 - the extra `quality`

    # Standardized, so that the solver converges for scores of any size.
    scores = np.concatenate([real, generated]).astype(np.float64)
    center, deviation = float(scores.mean()), max(float(scores.std()), 1e-12)
    a, b = ((each.astype(np.float64) - center) / deviation for each in (real, generated))

    def loss(weights: NDArray[np.float64]) -> float:
        slope, offset = weights
        of_real = np.logaddexp(0, -(slope * a + offset)).mean()
        return float(of_real + np.logaddexp(0, slope * b + offset).mean())

    slope: float = minimize(loss, np.zeros(2), method="BFGS").x[0]
    return slope / deviation
