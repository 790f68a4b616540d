"""Shuffled batches with random crops and flips.

All randomness is a function of (seed, batch number) and does not depend on earlier batches. Resumed
runs and runs with several processes therefore get the same images in the same order, with the same
crops and flips.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.data.images import ImageData


class ShuffledRows:
    """The row numbers of an endless sequence of shuffled batches, indexed by batch number."""

    def __init__(self, count: int, batch: int, seed: int) -> None:
        """Sample batches of `batch` rows from `count` rows."""
        self._count, self._batch, self._seed = count, batch, seed
        self._epoch = -1
        self._order: NDArray[np.int64] = np.empty(0, np.int64)

    def __getitem__(self, number: int) -> NDArray[np.int64]:
        """Return the rows of batch `number`, ``[B] int64``.

        Each epoch is a new permutation; a batch can span two epochs.
        """
        positions = np.arange(number * self._batch, (number + 1) * self._batch)
        epochs, offsets = np.divmod(positions, self._count)
        parts = [self._permutation(int(e))[offsets[epochs == e]] for e in np.unique(epochs)]
        return np.concatenate(parts)

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        if epoch != self._epoch:
            rng = np.random.default_rng([self._seed, 0, epoch])
            self._epoch, self._order = epoch, rng.permutation(self._count)
        return self._order


class ShuffledBatches:
    """An endless sequence of shuffled batches of images, indexed by batch number."""

    def __init__(
        self, images: ImageData, batch: int, resolution: int, *, flip: bool, seed: int
    ) -> None:
        """Sample batches of `batch` images, cropped to `resolution` pixels a side."""
        self._images = images
        self._rows = ShuffledRows(len(images), batch, seed)
        self._resolution = resolution
        self._flip = flip
        self._seed = seed
        self._rows = ShuffledRows(len(images), batch, seed)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor | None]:
        """Return batch `number`: images ``[B, C, H, W] uint8`` and labels ``[B] int64`` or None."""
        rows = self.indices(number)
        pixels = torch.from_numpy(self._images.pixels[rows]).permute(0, 3, 1, 2)
        rng = np.random.default_rng([self._seed, 1, number])
        pixels = self._crop(pixels, rng)
        if self._flip:
            mirrored = torch.from_numpy(rng.random(len(rows)) < 0.5)
            pixels = torch.where(mirrored[:, None, None, None], pixels.flip(-1), pixels)
        labels = self._images.labels
        return pixels, None if labels is None else torch.from_numpy(labels[rows])

    def indices(self, number: int) -> NDArray[np.int64]:
        """Return the indices of the images in batch `number`, ``[B] int64``."""
        return self._rows[number]

    def _crop(self, pixels: Tensor, rng: np.random.Generator) -> Tensor:
        size, margin = self._resolution, pixels.shape[-1] - self._resolution
        if margin == 0:
            return pixels
        corners = rng.integers(0, margin + 1, (len(pixels), 2))
        return torch.stack(
            [p[:, y : y + size, x : x + size] for p, (y, x) in zip(pixels, corners, strict=True)]
        )
