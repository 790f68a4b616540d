"""Perceptual path length: how smoothly images change along lines between two styles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from training.evaluation.metrics import Measurement, Measurements, Metric, evaluation_metrics

if TYPE_CHECKING:
    from service.runtime.models.model import Model
    from training.evaluation.features.networks import FeatureNetwork, Progress
    from training.evaluation.noise.inputs import EvaluationInputs

# The paper's step of 1e-4 requires real-valued images. Served images are rounded to 256 levels,
# which hides the effect of such a small step.
STEP = 0.05
# The percentiles between which path lengths are averaged, as in the authors' code.
_KEPT = (1, 99)
_ROWS = 16

PATH_LENGTH = Metric(
    name="path_length",
    title="path length",
    key="path length",
    better="lower",
    order=90,
    names_network=True,
    note=f"in w, step {STEP:g}; not comparable with published values",
)


@evaluation_metrics(PATH_LENGTH)
def measure_path_length(inputs: EvaluationInputs) -> Measurements:
    """Measure the path length; empty for models without styles."""
    target = inputs.target
    if target.model is None or target.model.manifest.styles is None:
        return {}
    result = path_length(
        target.model,
        inputs.network,
        inputs.options.paths,
        target.seed_start or 0,
        lambda done, total: inputs.show("measuring paths between styles", done, total),
    )
    details = {
        "samples": result.paths,
        "reference_choice": None,
        "truncation": 1.0 if target.truncation is not None else None,
    }
    return {PATH_LENGTH.name: Measurement(result.value, details=details)}


@dataclass(frozen=True)
class PathLength:
    """The mean length, and the number of paths that were measured."""

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

    Path i connects the styles of the seeds ``seed_start + 2 i`` and ``seed_start + 2 i + 1``. Two
    images are generated at a random position of the path, 0.05 apart. The length is the squared
    distance of their features divided by the squared step (Karras et al. 2018, arXiv:1812.04948,
    section 4.1, with a different distance and a larger step). Raises ValueError for a model without
    styles.
    """
    positions = np.random.default_rng(0).random(paths) * (1 - STEP)
    distances = []
    for start in range(0, paths, _ROWS):
        count = min(_ROWS, paths - start)
        seeds = [seed_start + 2 * start + i for i in range(2 * count)]
        # Both ends of a path have the same class, so that the class does not change along the path.
        classes = model.classes_of([seed // 2 for seed in seeds])
        latent = model.manifest.latent
        truncates = latent is not None and latent.truncation is not None
        truncations = [1.0] * len(seeds) if truncates else None
        w = model.styles(seeds, classes, truncations)
        first, last = w[0::2], w[1::2]
        t = positions[start : start + count, None, None].astype(np.float32)
        before, after = (first + (last - first) * at for at in (t, t + np.float32(STEP)))
        images = model.synthesize(np.concatenate([before, after]).astype(np.float32))
        vectors = network.features(images).vectors.astype(np.float64)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        distances.append(((vectors[:count] - vectors[count:]) ** 2).sum(axis=1))
        if progress:
            progress(start + count, paths)
    lengths = np.concatenate(distances) / STEP**2
    low, high = np.percentile(lengths, _KEPT)
    return PathLength(float(lengths[(lengths >= low) & (lengths <= high)].mean()), paths)
