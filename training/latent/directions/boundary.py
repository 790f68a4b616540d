"""Directions from labels: the normal of a linear boundary in latent space (arXiv:1907.10786)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.runtime.models.model import Model
from training.evaluation.features.networks import FeatureNetwork
from training.latent.directions.errors import DirectionsError
from training.latent.directions.latents import Floats, Progress, draw, images
from training.latent.directions.linear_classifier import fit_classifier

# One of this many samples is held out, to measure how well the boundary separates.
_HELD_OUT = 4
# The share of the samples with the lowest scores of a classifier, and of those with the highest.
_EXTREMES = 0.25
_MIN_PER_SIDE = 8
# Samples that are generated at once, before their images are reduced to scores.
_ROWS = 64


@dataclass(frozen=True)
class Boundary:
    """The normal ``[dimension]`` of a boundary, and how well it separates held-out samples."""

    normal: NDArray[np.float64]
    accuracy: float
    held_out: int


def class_boundary(
    model: Model,
    sides: tuple[int, int],
    layers: Sequence[int],
    seeds: Sequence[int],
    progress: Progress,
) -> Boundary:
    """Return the boundary in w from the first class of `sides` to the second, from their samples.

    `seeds` are those of all samples, half of them of each class. Raises DirectionsError if the
    latents do not depend on the class.
    """
    if model.manifest.styles is None:
        raise DirectionsError(
            f"--between: z of {model.manifest.name} does not depend on the class, which is an "
            "input of its own; use --classifier, or --from and --to"
        )
    latents = draw(model, seeds, sides, truncated=False, progress=progress).flat(layers)
    labels = np.array([seed % 2 for seed in seeds], np.int64)
    return _boundary(latents, labels)


def attribute_boundary(
    model: Model,
    classifier: FeatureNetwork,
    attribute: int,
    layers: Sequence[int],
    seeds: Sequence[int],
    classes: Sequence[int] | None,
    progress: Progress,
) -> Boundary:
    """Return the boundary from images without an attribute to images with it.

    The sides are the samples with the lowest and with the highest scores of the classifier's output
    `attribute`. Raises DirectionsError if the classifier does not have that output or always
    returns the same score.
    """
    latents, scores = [], []
    for start in range(0, len(seeds), _ROWS):
        samples = draw(model, seeds[start : start + _ROWS], classes)
        outputs = attribute_scores(classifier, images(model, samples))
        if attribute >= outputs.shape[1]:
            raise DirectionsError(
                f"--attribute: {classifier.name} has {outputs.shape[1]} outputs, numbered from 0"
            )
        latents.append(samples.flat(layers))
        scores.append(outputs[:, attribute])
        progress(min(start + _ROWS, len(seeds)), len(seeds))
    score = np.concatenate(scores)
    if not np.isfinite(score).all() or np.ptp(score) == 0:
        raise DirectionsError(
            f"--attribute: output {attribute} of {classifier.name} is the same for all images"
        )
    order = np.argsort(score, kind="stable")
    count = int(len(order) * _EXTREMES)
    # Alternating, so that both sides have their share of the held-out samples.
    chosen = np.stack([order[:count], order[::-1][:count]], axis=1).ravel()
    return _boundary(np.concatenate(latents)[chosen], np.arange(2 * count) % 2)


def attribute_scores(classifier: FeatureNetwork, pixels: NDArray[np.uint8]) -> Floats:
    """Return the outputs ``[N, attributes]`` of a classifier: its ``logits``, if it has some."""
    features = classifier.features(pixels)
    return features.vectors if features.logits is None else features.logits


def latents_boundary(before: Floats, after: Floats) -> Boundary:
    """Return the boundary between latents ``[N, dimension]`` of two sets of images."""
    count = min(len(before), len(after))
    if count < _MIN_PER_SIDE:
        raise DirectionsError(f"expected at least {_MIN_PER_SIDE} images on each side, got {count}")
    vectors = np.concatenate([before, after])
    labels = np.repeat(np.array([0, 1], np.int64), [len(before), len(after)])
    # The sides alternate, in proportion, so that both have their share of the held-out samples.
    places = np.concatenate([np.linspace(0, 1, len(side)) for side in (before, after)])
    order = np.argsort(places, kind="stable")
    return _boundary(vectors[order], labels[order])


def step_across(boundary: Boundary, latents: Floats) -> NDArray[np.float64]:
    """Return the direction in which a step across a boundary is shortest, in deviations of latents.

    That is the covariance of `latents` ``[N, dimension]`` times the normal: the step of the least
    Mahalanobis length. The normal itself, the step of the least Euclidean length, leads away from
    the latents of a mapping network, whose variance differs by direction. For z both are equal.
    """
    values = latents.astype(np.float64)
    values -= values.mean(axis=0)
    direction: NDArray[np.float64] = values.T @ (values @ boundary.normal)
    return direction


def _boundary(latents: Floats, labels: NDArray[np.int64]) -> Boundary:
    """Fit the boundary from label 0 to label 1.

    Pairs of samples are held out, so that labels that alternate stay balanced.
    """
    held_out = np.arange(len(labels)) // 2 % _HELD_OUT == _HELD_OUT - 1
    used = labels[~held_out]
    if min((used == 0).sum(), (used == 1).sum()) < _MIN_PER_SIDE // 2:
        raise DirectionsError("too few samples on one side of the boundary; use more --samples")
    if np.ptp(latents, axis=0).max() == 0:
        raise DirectionsError("the latents of all samples are equal")
    classifier = fit_classifier(latents[~held_out], used, 2)
    accuracy = classifier.accuracy(latents[held_out], labels[held_out])
    return Boundary(classifier.normal(0, 1), accuracy, int(held_out.sum()))
