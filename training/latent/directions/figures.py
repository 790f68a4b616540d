"""What a direction changes, and what it should not have changed, in figures.

Each figure is measured beside random directions of the same length in the same layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.runtime.images.color import split_chroma
from service.runtime.models.model import Model
from service.runtime.models.parts.additions import DirectionFigures
from training.evaluation.features.networks import FeatureNetwork, Features, to_rgb
from training.evaluation.metrics.pairs import structure_similarity
from training.evaluation.parallel import in_parallel
from training.latent.directions.boundary import attribute_scores
from training.latent.directions.latents import (
    Floats,
    Pixels,
    Progress,
    Samples,
    draw,
    images,
    moved,
)
from training.latent.directions.linear_classifier import LinearClassifier, fit_classifier

# Random directions beside each direction.
RANDOM_DIRECTIONS = 4
# Samples of each class for the classifier of `OtherClasses`.
_SAMPLES_PER_CLASS = 64


@dataclass(frozen=True)
class View:
    """Images with their features."""

    pixels: Pixels
    features: Features


class Drift(Protocol):
    """A measure of a change that a direction should not make."""

    @property
    def title(self) -> str:
        """What the measure measures, for `DirectionFigures.drift_of`."""

    def __call__(self, before: View, after: View) -> NDArray[np.float64]:
        """Return the change of each image ``[N]``, from 0."""


class Layout:
    """The change in layout: 1 minus the mean structure term of SSIM between gray images."""

    title = (
        "the change in layout: 1 minus the structure term of SSIM between gray images, which "
        "changes of brightness, contrast and color leave at 1"
    )

    def __call__(self, before: View, after: View) -> NDArray[np.float64]:
        """Return the change of each image ``[N]``, from 0 to 2."""
        pairs = zip(_luma(before.pixels), _luma(after.pixels), strict=True)
        return 1 - np.array(list(in_parallel(lambda pair: structure_similarity(*pair), pairs)))


@dataclass(frozen=True)
class OtherClasses:
    """The change in the probabilities of the classes that a boundary does not separate."""

    classifier: LinearClassifier
    others: tuple[int, ...]
    title: str

    def __call__(self, before: View, after: View) -> NDArray[np.float64]:
        """Return the sum of the changes of each image ``[N]``."""
        first, second = (
            self.classifier.probabilities(_normalized(view.features)) for view in (before, after)
        )
        change: NDArray[np.float64] = np.abs(second - first)[:, list(self.others)].sum(axis=1)
        return change


@dataclass(frozen=True)
class OtherAttributes:
    """The change in the other outputs of a classifier, in standard deviations."""

    classifier: FeatureNetwork
    attribute: int
    # The standard deviations ``[attributes]`` of the outputs.
    deviations: Floats

    @property
    def title(self) -> str:
        """What the measure measures."""
        return (
            f"the mean change in the other outputs of {self.classifier.title}, in their standard "
            "deviations"
        )

    def __call__(self, before: View, after: View) -> NDArray[np.float64]:
        """Return the mean change of each image ``[N]``."""
        first, second = (attribute_scores(self.classifier, v.pixels) for v in (before, after))
        change = np.abs(second - first) / np.maximum(self.deviations, 1e-6)
        others = [i for i in range(change.shape[1]) if i != self.attribute]
        mean: NDArray[np.float64] = change[:, others].mean(axis=1, dtype=np.float64)
        return mean


def other_classes(
    model: Model, network: FeatureNetwork, sides: Sequence[int], seed: int, progress: Progress
) -> Drift:
    """Return the drift of a boundary between two classes; the layout if there are no others.

    The probabilities are those of logistic regression on features of the model's own samples.
    """
    names = model.manifest.classes
    others = tuple(i for i in range(len(names)) if i not in sides)
    if not others:
        return Layout()
    count = len(names) * _SAMPLES_PER_CLASS
    seeds = range(seed, seed + count)
    pixels = images(model, draw(model, seeds))
    features = network.features(pixels, progress)
    labels = np.array(model.classes_of(seeds), np.int64)
    classifier = fit_classifier(_normalized(features), labels, len(names))
    title = (
        "the summed change in the probabilities of the other classes, by logistic regression on "
        f"features of {count:,} of the model's own samples"
    )
    return OtherClasses(classifier, others, title)


def other_attributes(
    classifier: FeatureNetwork, attribute: int, model: Model, seeds: Sequence[int]
) -> Drift:
    """Return the drift of an attribute's boundary; the layout if the classifier has no others."""
    scores = attribute_scores(classifier, images(model, draw(model, seeds)))
    if scores.shape[1] == 1:
        return Layout()
    return OtherAttributes(classifier, attribute, scores.std(axis=0))


class FigureMeasurement:
    """Measures directions on the same samples."""

    def __init__(
        self, model: Model, samples: Samples, network: FeatureNetwork, drift: Drift
    ) -> None:
        """Generate the images of `samples` before any step."""
        self._model, self._samples, self._network, self._drift = model, samples, network, drift
        self._before = self._view(samples)

    def _view(self, samples: Samples) -> View:
        pixels = images(self._model, samples)
        return View(pixels, self._network.features(pixels))

    def measure(self, vector: Floats, layers: Sequence[int], seed: int) -> DirectionFigures:
        """Measure one unit in both senses of a direction, and of random ones drawn from `seed`."""
        figures = [self._change(step * vector, layers) for step in (1, -1)]
        effect, drift = np.mean(figures, axis=0)
        rng = np.random.default_rng((seed, 2))
        normal = rng.standard_normal((RANDOM_DIRECTIONS, len(vector)))
        normal *= np.linalg.norm(vector) / np.linalg.norm(normal, axis=1, keepdims=True)
        random = [self._change(each.astype(np.float32), layers) for each in normal]
        random_effect, random_drift = np.mean(random, axis=0)
        return DirectionFigures(
            effect=_rounded(effect),
            drift=_rounded(drift),
            random_effect=_rounded(random_effect),
            random_drift=_rounded(random_drift),
            samples=len(self._samples),
            feature_network=self._network.title,
            drift_of=self._drift.title,
        )

    def _change(self, step: Floats, layers: Sequence[int]) -> tuple[float, float]:
        """Return the mean change in features, 1 minus the cosine similarity, and the mean drift."""
        after = self._view(moved(self._samples, step, layers, 1))
        a, b = (_normalized(view.features) for view in (self._before, after))
        effect = 1 - (a * b).sum(axis=1)
        return float(effect.mean()), float(self._drift(self._before, after).mean())


def _normalized(features: Features) -> NDArray[np.float64]:
    vectors = features.vectors.astype(np.float64)
    lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    normalized: NDArray[np.float64] = vectors / lengths
    return normalized


def _luma(pixels: Pixels) -> list[Pixels]:
    """Return the luma ``[H, W, 1]`` of each image."""
    return [split_chroma(image)[0] for image in to_rgb(pixels)]


def _rounded(value: float) -> float:
    # Differences in the last digits between machines would be differences between manifests.
    return max(round(float(value), 5), 0.0)
