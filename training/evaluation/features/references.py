"""Real images for comparison with generated ones."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from training.data.images import DataOptions, ImageData, load_images
from training.data.sources import DataError
from training.evaluation.errors import QualityError
from training.evaluation.evaluation import Progress
from training.evaluation.features.cache import cached_features
from training.evaluation.features.networks import FeatureNetwork, Features

HELD_OUT = "test"


@dataclass(frozen=True)
class RealImages:
    """One split of a data set, decoded as for training."""

    title: str
    split: str
    images: ImageData

    @cached_property
    def sha256(self) -> str:
        """The digest of the decoded images."""
        return digest_of(self.images.pixels)

    def rows(self, limit: int) -> NDArray[np.int64]:
        """Return all rows of the split, or a fixed random choice of `limit` rows."""
        count = len(self.images)
        if count <= limit:
            return np.arange(count)
        return np.sort(np.random.default_rng(0).permutation(count)[:limit])

    def labels(self, rows: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Return the labels of `rows`, or None for images without labels."""
        return None if self.images.labels is None else self.images.labels[rows]

    def features(
        self, rows: NDArray[np.int64], network: FeatureNetwork, progress: Progress | None = None
    ) -> Features:
        """Return the features of `rows`, from the cache if possible."""

        def show(done: int, total: int) -> None:
            if progress:
                progress(f"computing features of real images ({self.split})", done, total)

        return cached_features(network, self.images.pixels[rows], show)


@dataclass(frozen=True)
class Reference:
    """The real images to measure against, and the images of the training split."""

    data: DataOptions
    against: RealImages
    training: RealImages

    @property
    def held_out(self) -> bool:
        """True if `against` is not the training split."""
        return self.against.sha256 != self.training.sha256


def open_reference(
    data: DataOptions, split: str | None = None, progress: Progress | None = None
) -> Reference:
    """Open the split to measure against.

    The default is the held-out split if the data set has one, otherwise the training split. Raises
    DataError, and QualityError for a split with fewer than ten images.
    """
    training = _open(data, data.split, progress, needed=split is None)
    wanted = split or HELD_OUT
    against = training
    if split is not None or data.has_splits():
        against = _open(data, wanted, progress, needed=split is not None) or training
    training = training or against
    if against is None or training is None:
        raise DataError(f"{data.dataset_title} has no split {wanted!r}")
    if against.sha256 == training.sha256:
        # A folder without splits returns the same images for every split.
        against = training
    if len(against.images) < 10:
        raise QualityError(
            f"{against.title} has {len(against.images)} images; at least 10 are needed"
        )
    return Reference(data, against, training)


def _open(
    data: DataOptions, split: str | None, progress: Progress | None, *, needed: bool
) -> RealImages | None:
    # Training's random crops do not apply to a reference.
    options = data.model_copy(update={"split": split, "crop": "centre"})
    if split != data.split:
        options = options.model_copy(update={"limit": None})

    def show(done: int, total: int) -> None:
        if progress:
            progress("decoding images", done, total)

    try:
        images = load_images(options, show)
    except DataError:
        if needed:
            raise
        return None
    return RealImages(
        f"{options.dataset_title}, split {options.split_name}", options.split_name, images
    )


def digest_of(pixels: NDArray[np.uint8]) -> str:
    """Return the SHA-256 of the shape and the bytes of images ``[N, H, W, C]``."""
    digest = hashlib.sha256(repr(pixels.shape).encode())
    rows = max(2**24 // max(pixels[0].size, 1), 1)
    for start in range(0, len(pixels), rows):
        digest.update(pixels[start : start + rows].tobytes())
    return digest.hexdigest()


def same_classes(names: tuple[str, ...], data_names: tuple[str, ...]) -> bool:
    """Return True if a model and a data set have the same classes.

    If the data set has numbers instead of class names, they match any names of the model.
    """
    if not names or data_names == names:
        return bool(names)
    numbered = data_names == tuple(str(i) for i in range(len(names)))
    # If the model also has numbers as names, they must be the same numbers.
    return numbered and not any(name.isdigit() for name in names)
