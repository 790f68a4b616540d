"""How varied a batch of generated pictures is, held against real ones."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from training.data.images import ImageData

# Pictures are compared at this size, where noise of single pixels is gone and shapes are not.
_SIDE = 16
# So many real pictures give the measure; more hardly changes it.
_REALS = 1024


class Diversity:
    """Compares batches of `count` pictures ``[count, C, H, W]`` in [-1, 1], of the same latents.

    Everything is in units of the real pictures, so that 1 means the same for digits and faces.
    """

    def __init__(self, reals: Tensor, count: int) -> None:
        """Take the measure of real pictures ``[M, C, H, W]``, in batches as large as the others."""
        count = min(count, len(reals))
        batches = [
            _distances(_small(batch)) for batch in torch.split(reals, count) if len(batch) == count
        ]
        self._apart = float(np.mean([_mean_pair(distances) for distances in batches]))
        nearest = torch.cat([_nearest(distances) for distances in batches])
        # Much closer than real pictures come, two pictures are the same to the eye. Half as close
        # would not do: generators are smooth, and neighbours in a sound one are that alike.
        self._twins_within = float(nearest.median()) / 8
        self._real_twins = float((nearest <= self._twins_within).float().mean())
        self._before: Tensor | None = None

    def measure(self, pictures: Tensor) -> Mapping[str, float]:
        """Return the figures of one batch.

        `diversity`: the mean distance of two pictures; 1 is that of two real ones.
        `duplicates`: the share of pictures with a twin, above the real pictures' own share.
        `change`: the mean distance from the picture that the same latent gave at the last call,
        in the same unit; not there at the first.
        """
        small = _small(pictures)
        distances = _distances(small)
        twins = float((_nearest(distances) <= self._twins_within).float().mean())
        unit = max(self._apart, 1e-8)
        figures = {
            "diversity": _mean_pair(distances) / unit,
            "duplicates": max(twins - self._real_twins, 0.0),
        }
        if self._before is not None:
            figures["change"] = float((small - self._before).norm(dim=1).mean()) / unit
        self._before = small
        return figures


def reals_to_compare(pictures: ImageData, resolution: int) -> Tensor:
    """Draw the real pictures ``[M, C, H, W]`` in [-1, 1] to measure by; always the same ones."""
    rows = np.random.default_rng(0).permutation(len(pictures))[:_REALS]
    pixels = torch.from_numpy(pictures.pixels[rows])
    edge = (pixels.shape[1] - resolution) // 2
    pixels = pixels[:, edge : edge + resolution, edge : edge + resolution]
    return pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def _small(pictures: Tensor) -> Tensor:
    side = min(_SIDE, pictures.shape[-1])
    return adaptive_avg_pool2d(pictures.float(), side).flatten(1)


def _distances(small: Tensor) -> Tensor:
    # Not by matrix products, which lose the small distances to rounding.
    return torch.cdist(small, small, compute_mode="donot_use_mm_for_euclid_dist")


def _mean_pair(distances: Tensor) -> float:
    count = len(distances)
    return float(distances.sum()) / max(count * (count - 1), 1)


def _nearest(distances: Tensor) -> Tensor:
    return (distances + torch.diag(torch.full((len(distances),), torch.inf))).amin(1)
