"""Memorization: generated images that look the same as a training image or as each other.

For the comparison, images are downsampled to 16×16 pixels, which removes noise and compression
artifacts but keeps shapes. This is fast enough for entire training sets, and needs no feature
network.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from service.runtime.files import CannotWrite, cache_folder, replacing
from training.evaluation.features.resizing import resize
from training.evaluation.metrics import Measurement, Measurements, Metric, evaluation_metrics
from training.evaluation.metrics.nearest_neighbors import nearest, neighbor_radii
from training.evaluation.noise.results import Neighbors
from training.evaluation.parallel import in_parallel

if TYPE_CHECKING:
    from training.evaluation.noise.inputs import EvaluationInputs

_SIDE = 16
# Two images are considered equal if their distance is less than the typical distance of neighbors
# in the training set, divided by this number. With 2, similar images would be considered equal,
# because good generators produce smooth images.
_DIVISOR = 8
# The number of training images that are used to estimate the typical distance.
_ESTIMATED_FROM = 2000
_NEIGHBORS = 3
# The number of images that are downsampled at once.
_DOWNSAMPLED = 1024
_SHOWN = 16


@evaluation_metrics(
    Metric(
        name="duplicates",
        title="duplicates",
        key="duplicates",
        better="lower",
        order=60,
        unit="share",
        note="share of samples that look the same as another sample",
    ),
    Metric(
        name="memorised",
        title="memorized",
        key="memorised",
        better="lower",
        order=61,
        unit="share",
        note="share of samples that look the same as a training image",
    ),
    Metric(
        name="training_distance",
        title="training distance",
        key="training distance",
        better="as real",
        order=62,
        note="median distance to the nearest training image, relative to that of held-out images; "
        "well below 1 means memorization",
    ),
)
def measure_memorization(inputs: EvaluationInputs) -> Measurements:
    """Measure all three metrics. The training distance requires held-out images."""
    search, pixels = inputs.once(_search), inputs.pixels
    distances, _ = inputs.once(_nearest)
    training, against = inputs.reference.training, inputs.reference.against
    details: dict[str, Any] = {
        "feature_network": None,
        "reference_choice": None,
        "resizing": "averaged to 16×16, no network",
        "reference": training.title,
        "reference_sha256": training.sha256,
        "reference_samples": len(training.images),
    }
    values = {
        "duplicates": float(search.duplicates(pixels).mean()),
        "memorised": float((distances[:, 0] <= 1).mean()),
    }
    real: dict[str, float | None] = dict.fromkeys(values)
    if inputs.reference.held_out:
        # The same number of real images that are not in the training split.
        held_out = np.asarray(against.images.pixels[against.rows(len(pixels))])
        details["real_samples"] = len(held_out)
        real_distances = search.nearest(held_out)[0][:, 0]
        real["duplicates"] = float(search.duplicates(held_out).mean())
        real["memorised"] = float((real_distances <= 1).mean())
        unit = max(float(np.median(real_distances)), 1e-9)
        values["training_distance"] = float(np.median(distances[:, 0])) / unit
        real["training_distance"] = 1.0
    inputs.show("searching for memorized images", 1, 1)
    return {
        name: Measurement(value, real=real[name], details=details) for name, value in values.items()
    }


def nearest_training_images(inputs: EvaluationInputs) -> tuple[Neighbors, ...]:
    """Return the generated images closest to a training image, in order of distance."""
    distances, rows = inputs.once(_nearest)
    return tuple(
        Neighbors(
            generated=inputs.pixels[row],
            training=np.asarray(inputs.reference.training.images.pixels[rows[row]]),
            distance=float(distances[row, 0]),
        )
        for row in np.argsort(distances[:, 0])[:_SHOWN]
    )


def _search(inputs: EvaluationInputs) -> DuplicateSearch:
    inputs.show("searching for memorized images", 0, 1)
    target = inputs.target
    mirrored = inputs.reference.data.flip or bool(target.data and target.data.flip)
    training = inputs.reference.training
    # The threshold depends on the training images only.
    path = cache_folder("features") / f"{training.sha256[:32]}-neighbors-{_ESTIMATED_FROM}.json"
    threshold = _read_threshold(path)
    search = DuplicateSearch(training.images.pixels, mirrored=mirrored, threshold=threshold)
    if threshold is None:
        # An evaluation is not lost because the cache cannot be written.
        with suppress(CannotWrite), replacing(path) as temporary:
            temporary.write_text(json.dumps({"threshold": search.threshold}))
    return search


def _read_threshold(path: Path) -> float | None:
    """Return a cached threshold, or None if there is none, or if it cannot be read."""
    try:
        return float(json.loads(path.read_text())["threshold"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _nearest(inputs: EvaluationInputs) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    return inputs.once(_search).nearest(inputs.pixels, _NEIGHBORS)


class DuplicateSearch:
    """Finds copies of the images ``[N, H, W, C] uint8`` of a training set."""

    def __init__(
        self, training: NDArray[np.uint8], *, mirrored: bool, threshold: float | None = None
    ) -> None:
        """Estimate the distance below which two images are considered equal, if it is not known.

        With `mirrored`, mirror images count as copies; use it if training flips images. Raises
        ValueError for fewer than two images.
        """
        if len(training) < 2:
            raise ValueError(f"expected at least two training images, got {len(training)}")
        self._mirrored = mirrored
        self._training = low_resolution(training)
        if threshold is not None:
            self.threshold = threshold
            return
        sample = np.random.default_rng(0).permutation(len(training))[:_ESTIMATED_FROM]
        # Search all images, because neighbors within a sample are farther apart.
        distances, _ = nearest(self._training[sample], self._training, count=2)
        self.threshold = float(np.median(distances[:, 1])) / _DIVISOR

    def nearest(
        self, pixels: NDArray[np.uint8], count: int = 1
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return distances and rows ``[N, count]`` of the nearest training images.

        Distances are in units of the threshold: an image with a distance below 1 is a copy.
        """
        distances, rows = nearest(low_resolution(pixels), self._training, count)
        if self._mirrored:
            mirrored, mirrored_rows = nearest(
                low_resolution(pixels[:, :, ::-1]), self._training, count
            )
            both = np.concatenate([distances, mirrored], axis=1)
            all_rows = np.concatenate([rows, mirrored_rows], axis=1)
            order = np.argsort(both, axis=1, kind="stable")[:, :count]
            distances = np.take_along_axis(both, order, axis=1)
            rows = np.take_along_axis(all_rows, order, axis=1)
        # The threshold is 0 if all training images are equal.
        return distances / max(self.threshold, 1e-6), rows

    def duplicates(self, pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Return, for each image ``[N]``, whether it is considered equal to another image."""
        return neighbor_radii(low_resolution(pixels), (1,))[1] <= self.threshold


def low_resolution(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Downsample ``[N, H, W, C] uint8`` to ``[N, 256 * C] float32``. Keeps smaller images."""
    side = min(_SIDE, pixels.shape[1])

    def downsample(start: int) -> NDArray[np.float32]:
        part = np.asarray(pixels[start : start + _DOWNSAMPLED])
        return resize(part, side, "bilinear").reshape(len(part), -1)

    return np.concatenate(list(in_parallel(downsample, range(0, len(pixels), _DOWNSAMPLED))))
