"""The diversity of generated images, relative to the diversity of real images."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from training.data.images import ImageData

# Images are compared at this side in pixels, which removes pixel noise and keeps shapes.
_SIDE = 16
# Number of real images to compare with. A larger number hardly changes the result.
_REAL_IMAGES = 1024


class Diversity:
    """Measures batches of `count` images ``[count, C, H, W]`` in [-1, 1] of fixed latents.

    Distances are relative to those between real images, so that values are comparable across data
    sets.
    """

    def __init__(self, reals: Tensor, count: int) -> None:
        """Measure real images ``[M, C, H, W]`` in batches of `count`, as the unit of distance."""
        count = min(count, len(reals))
        batches = [
            _distances(_small(batch)) for batch in torch.split(reals, count) if len(batch) == count
        ]
        self._unit = float(np.mean([_mean_distance(distances) for distances in batches]))
        nearest = torch.cat([_nearest(distances) for distances in batches])
        # Images that are much closer to each other than any real images look the same. A larger
        # threshold would be wrong: generators are smooth, so neighbors are similar in healthy runs,
        # too.
        self._duplicate_distance = float(nearest.median()) / 8
        self._real_duplicates = float((nearest <= self._duplicate_distance).float().mean())
        self._before: Tensor | None = None

    def measure(self, images: Tensor) -> Mapping[str, float]:
        """Return the metrics of one batch.

        `diversity`: the mean distance between two images, relative to real images. `duplicates`:
        the fraction of images with a duplicate, minus the fraction in real images. `change`: the
        mean distance to the image of the same latent in the last call, relative to the distance
        between two real images; absent in the first call.
        """
        small = _small(images)
        distances = _distances(small)
        duplicates = float((_nearest(distances) <= self._duplicate_distance).float().mean())
        unit = max(self._unit, 1e-8)
        metrics = {
            "diversity": _mean_distance(distances) / unit,
            "duplicates": max(duplicates - self._real_duplicates, 0.0),
        }
        if self._before is not None:
            metrics["change"] = float((small - self._before).norm(dim=1).mean()) / unit
        self._before = small
        return metrics


def reals_to_compare(data: ImageData, resolution: int) -> Tensor:
    """Return a fixed choice of real images ``[M, C, H, W]`` in [-1, 1] for `Diversity`."""
    pixels = torch.from_numpy(data.pixels[rows_to_compare(len(data))])
    edge = (pixels.shape[1] - resolution) // 2
    pixels = pixels[:, edge : edge + resolution, edge : edge + resolution]
    return pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def rows_to_compare(count: int) -> NDArray[np.int64]:
    """Return a fixed choice of the rows of a data set with `count` rows."""
    return np.random.default_rng(0).permutation(count)[:_REAL_IMAGES]


def _small(images: Tensor) -> Tensor:
    side = min(_SIDE, images.shape[-1])
    return adaptive_avg_pool2d(images.float(), side).flatten(1)


def _distances(small: Tensor) -> Tensor:
    # Matrix products would lose small distances to rounding.
    return torch.cdist(small, small, compute_mode="donot_use_mm_for_euclid_dist")


def _mean_distance(distances: Tensor) -> float:
    count = len(distances)
    return float(distances.sum()) / max(count * (count - 1), 1)


def _nearest(distances: Tensor) -> Tensor:
    return (distances + torch.diag(torch.full((len(distances),), torch.inf))).amin(1)
