"""Copies: generated pictures that are equal to one another, or to a picture of the training set.

Pictures are compared as the eye would from a distance: averaged down to 16 pixels a side, where
noise and a lossy file format are gone and shapes are not. This is cheap enough for whole training
sets, and needs no network.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.evaluation.features.resizing import resize
from training.evaluation.metrics.precision_recall import nearest, radius

_SIDE = 16
# Much closer than two pictures of the set come, they are the same to the eye. Half as close would
# not do: generators are smooth, and neighbours in a sound one are that alike.
_CLOSER = 8
# So many pictures tell how close those of a set come.
_MEASURED = 2000


class Duplicates:
    """Looks for copies of the pictures ``[N, H, W, C] uint8`` of a training set."""

    def __init__(self, training: NDArray[np.uint8], *, mirrored: bool) -> None:
        """`mirrored`: a mirror image is a copy too, as where training flips its pictures.

        Raises ValueError for fewer than two pictures.
        """
        if len(training) < 2:
            raise ValueError("one picture has no neighbours")
        self._mirrored = mirrored
        self._training = small(training)
        some = np.random.default_rng(0).permutation(len(training))[:_MEASURED]
        # From all of them, but for themselves: a subset's neighbours are farther apart.
        distances, _ = nearest(self._training[some], self._training, count=2)
        self.within = float(np.median(distances[:, 1])) / _CLOSER

    def nearest(
        self, pixels: NDArray[np.uint8], count: int = 1
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return distances and rows ``[N, count]`` of the nearest training pictures.

        Distances are in units of that below which two pictures are copies.
        """
        distances, rows = nearest(small(pixels), self._training, count)
        if self._mirrored:
            turned, turned_rows = nearest(small(pixels[:, :, ::-1]), self._training, count)
            both = np.concatenate([distances, turned], axis=1)
            all_rows = np.concatenate([rows, turned_rows], axis=1)
            order = np.argsort(both, axis=1, kind="stable")[:, :count]
            distances = np.take_along_axis(both, order, axis=1)
            rows = np.take_along_axis(all_rows, order, axis=1)
        return distances / self._unit, rows

    def twins(self, pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Return which of the pictures have a twin among themselves."""
        return radius(small(pixels), (1,))[1] <= self.within

    @property
    def _unit(self) -> float:
        # A set of equal pictures has no distances to measure by.
        return max(self.within, 1e-6)


def small(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Average ``[N, H, W, C] uint8`` down to ``[N, 256 * C] float32``; smaller ones stay."""
    side = min(_SIDE, pixels.shape[1])
    parts = [
        resize(pixels[start : start + 1024], side, "bilinear").reshape(
            len(pixels[start : start + 1024]), -1
        )
        for start in range(0, len(pixels), 1024)
    ]
    return np.concatenate(parts)
