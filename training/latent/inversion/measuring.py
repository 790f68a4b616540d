"""Measures an exported encoder: reconstructions against the mean image and the nearest sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.runtime.models.manifest import Manifest
from service.runtime.models.parts.additions import InversionFigure
from training.data.images import DataOptions, data_location, load_images
from training.data.sources import DataError
from training.evaluation.features.cache import cached_features
from training.evaluation.features.networks import FeatureNetwork
from training.evaluation.features.references import same_classes
from training.latent.generator import LatentGenerator, Latents
from training.latent.inversion.passes import (
    Inversion,
    Pixels,
    RunEncoder,
    has_class_choice,
    invert_by_passes,
    psnr,
    squared_errors,
)
from training.latent.inversion.quality import OWN_IMAGES

# Seeds of the images to measure with and to choose the number of passes with. Training starts at
# larger seeds, and the candidates for the nearest sample have smaller ones.
MEASURED_SEED = 1_000_000
_CHOICE_SEED = 2_000_000
_CHOICE_IMAGES = 128
# More passes are worth their time if they gain this many dB.
_WORTH_DB = 0.1
_CHUNK = 256

# Called with what is done, the number of done items, and their total.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Targets:
    """Images to invert. `classes` are None for a model without class input, or if unknown."""

    title: str
    pixels: Pixels
    classes: Sequence[int] | None = None


@dataclass(frozen=True)
class Candidates:
    """Samples among which the nearest is a baseline, and their mean image."""

    pixels: Pixels
    vectors: NDArray[np.float32]
    mean_image: Pixels
    mean_vector: NDArray[np.float32]


def own_images(generator: LatentGenerator, count: int, first_seed: int = MEASURED_SEED) -> Targets:
    """Return samples that are neither trained on nor candidates."""
    seeds = range(first_seed, first_seed + count)
    title = f"{OWN_IMAGES}, seeds {seeds[0]} to {seeds[-1]}"
    classes = generator.model.classes_of(seeds) if has_class_choice(generator.manifest) else None
    return Targets(title, generator.pixels(*generator.draw(seeds)), classes)


def photographs(manifest: Manifest, data: str, split: str | None, count: int) -> Targets:
    """Return a fixed choice of images of a data set, in the model's size. Raises DataError.

    `data` is the name of a known data set, or a path. The default split is the held-out one.
    """
    options = _data_options(manifest, data, split)
    if manifest.image_spec.height != manifest.image_spec.width:
        raise DataError("--photos: images of a data set are square, and those of the model are not")
    images = load_images(options)
    rows = np.sort(np.random.default_rng(0).permutation(len(images))[:count])
    classes = None
    if (
        has_class_choice(manifest)
        and images.labels is not None
        and same_classes(manifest.classes, tuple(images.class_names))
    ):
        classes = [int(label) for label in images.labels[rows]]
    title = f"photographs: {options.dataset_title}, split {options.split_name}"
    return Targets(title, np.ascontiguousarray(images.pixels[rows]), classes)


def choose_passes(
    generator: LatentGenerator, encoder: RunEncoder, start: Latents, most: int
) -> int:
    """Return the smallest number of passes that is about as good as `most` passes."""
    targets = own_images(generator, _CHOICE_IMAGES, _CHOICE_SEED)
    history = invert_by_passes(generator, encoder, start, targets.pixels, most, targets.classes)
    values = [psnr(squared_errors(each.pixels, targets.pixels)).mean() for each in history]
    return next(n for n in range(1, most + 1) if values[n] >= values[-1] - _WORTH_DB)


def draw_candidates(
    generator: LatentGenerator, network: FeatureNetwork, count: int, progress: Progress
) -> Candidates:
    """Return `count` samples with their features, from the seed 0 on."""
    parts = []
    for first in range(0, count, _CHUNK):
        seeds = range(first, min(first + _CHUNK, count))
        parts.append(generator.pixels(*generator.draw(seeds)))
        progress("drawing samples", seeds[-1] + 1, count)
    pixels = np.concatenate(parts)
    total = np.zeros(pixels.shape[1:], np.float64)
    for first in range(0, count, _CHUNK):
        total += pixels[first : first + _CHUNK].sum(0, dtype=np.float64)
    mean_image = np.rint(total / count).astype(np.uint8)
    features = cached_features(
        network, pixels, lambda done, all_: progress("computing features of samples", done, all_)
    )
    return Candidates(
        pixels, features.vectors, mean_image, network.features(mean_image[None]).vectors[0]
    )


def invert_targets(
    generator: LatentGenerator, encoder: RunEncoder, start: Latents, targets: Targets, passes: int
) -> Inversion:
    """Return the inversion of `targets`. If their classes are unknown, all classes are tried."""
    choices: list[Sequence[int] | None] = [targets.classes]
    if has_class_choice(generator.manifest) and targets.classes is None:
        count = len(targets.pixels)
        choices = [[index] * count for index in range(len(generator.manifest.classes))]
    best = None
    for classes in choices:
        history = invert_by_passes(generator, encoder, start, targets.pixels, passes, classes)
        best = history[-1] if best is None else best.better_of(history[-1], targets.pixels)
    assert best is not None  # noqa: S101 - there is at least one choice
    return best


def measure(
    targets: Targets, inversion: Inversion, candidates: Candidates, network: FeatureNetwork
) -> tuple[InversionFigure, ...]:
    """Return PSNR and feature distance of reconstructions, with those of both baselines.

    The feature distance is the Euclidean distance of the feature vectors.
    """
    vectors = network.features(targets.pixels).vectors
    rebuilt = network.features(inversion.pixels).vectors
    mean_image = np.broadcast_to(candidates.mean_image, targets.pixels.shape)
    ratios = [
        psnr(errors).mean()
        for errors in (
            squared_errors(inversion.pixels, targets.pixels),
            squared_errors(mean_image, targets.pixels),
            _nearest_errors(targets.pixels, candidates.pixels),
        )
    ]
    distances = [
        np.linalg.norm(vectors - rebuilt, axis=1).mean(),
        np.linalg.norm(vectors - candidates.mean_vector, axis=1).mean(),
        np.mean([np.linalg.norm(candidates.vectors - v, axis=1).min() for v in vectors]),
    ]

    def figure(
        metric: str, values: Sequence[float], feature_network: str | None
    ) -> InversionFigure:
        value, mean_value, nearest = (float(each) for each in values)
        return InversionFigure.model_validate(
            {
                "metric": metric,
                "images": targets.title,
                "count": len(targets.pixels),
                "value": value,
                "mean_image": mean_value,
                "nearest": nearest,
                "candidates": len(candidates.pixels),
                "feature_network": feature_network,
            }
        )

    return figure("PSNR", ratios, None), figure("feature distance", distances, network.title)


def _nearest_errors(targets: Pixels, candidates: Pixels) -> NDArray[np.float64]:
    """Return the error of the candidate that is nearest to each target.

    A product of matrices finds the nearest one; its error is then computed exactly.
    """
    flat = targets.reshape(len(targets), -1).astype(np.float32)
    least = np.full(len(targets), np.inf)
    nearest = np.zeros(len(targets), np.int64)
    for first in range(0, len(candidates), _CHUNK):
        rows = candidates[first : first + _CHUNK].reshape(-1, flat.shape[1]).astype(np.float32)
        # The square of the target is the same for all candidates.
        distances = np.square(rows).sum(1) - 2 * flat @ rows.T
        best = distances.argmin(1)
        values = distances[np.arange(len(targets)), best]
        better = values < least
        least, nearest = np.where(better, values, least), np.where(better, first + best, nearest)
    return squared_errors(candidates[nearest], targets)


def _data_options(manifest: Manifest, data: str, split: str | None) -> DataOptions:
    image = manifest.image_spec
    options = DataOptions.model_validate(
        {"resolution": image.height, "channels": image.channels, **data_location(data)}
    )
    if split is None and options.has_splits():
        split = "test"
    return options.model_copy(update={"split": split})
