"""Perceptual path length: how evenly pictures change along straight lines between styles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from service.runtime.models.model import Model
from training.evaluation.features.networks import FeatureNetwork, Progress

# The paper's step of 1e-4 needs pictures of real numbers. Served ones are rounded to 256 levels,
# beside which so small a step does not show.
STEP = 0.05
# The paths in both tails are no measure of the others, as in the authors' code.
_TAILS = (1, 99)
_ROWS = 16


@dataclass(frozen=True)
class PathLength:
    """The mean over paths, and how many there were."""

    value: float
    paths: int


def path_length(
    model: Model,
    network: FeatureNetwork,
    paths: int,
    seed_start: int = 0,
    progress: Progress | None = None,
) -> PathLength:
    """Measure the perceptual path length in w, without truncation, of a model with styles.

    Path i leads from the styles of seed ``seed_start + 2 i`` to those of the next one; a place on
    it is drawn at random, and the distance of its picture's features to those a step of 0.05
    farther is taken, squared and divided by the squared step (Karras et al. 2018,
    arXiv:1812.04948, section 4.1, with another distance and a larger step). Raises ValueError for a
    model without styles.
    """
    places = np.random.default_rng(0).random(paths) * (1 - STEP)
    distances = []
    for start in range(0, paths, _ROWS):
        count = min(_ROWS, paths - start)
        seeds = [seed_start + 2 * start + i for i in range(2 * count)]
        # Both ends of a path have one class, or the path would lead from class to class.
        classes = model.classes_of([seed // 2 for seed in seeds])
        latent = model.manifest.latent
        truncates = latent is not None and latent.truncation is not None
        truncations = [1.0] * len(seeds) if truncates else None
        w = model.styles(seeds, classes, truncations)
        first, last = w[0::2], w[1::2]
        t = places[start : start + count, None, None].astype(np.float32)
        here, there = (first + (last - first) * at for at in (t, t + np.float32(STEP)))
        pictures = model.synthesize(np.concatenate([here, there]).astype(np.float32))
        vectors = network.features(pictures).vectors.astype(np.float64)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        distances.append(((vectors[:count] - vectors[count:]) ** 2).sum(axis=1))
        if progress:
            progress(start + count, paths)
    lengths = np.concatenate(distances) / STEP**2
    low, high = np.percentile(lengths, _TAILS)
    return PathLength(float(lengths[(lengths >= low) & (lengths <= high)].mean()), paths)
