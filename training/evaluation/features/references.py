"""The real pictures that generated ones are held against, and their features, kept by content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from service.runtime.files import cache_folder, replacing
from training.data.images import DataOptions, ImageData, load_images
from training.data.sources import DataError
from training.evaluation.errors import QualityError
from training.evaluation.features.networks import FeatureNetwork, Features

# Hears what is being done, how much of it has been, and of how much.
Progress = Callable[[str, int, int], None]

HELD_OUT = "test"


@dataclass(frozen=True)
class RealImages:
    """One split of a data set, decoded as training decodes it."""

    title: str
    split: str
    pictures: ImageData

    @cached_property
    def sha256(self) -> str:
        """The digest of the decoded pictures."""
        return digest_of(self.pictures.pixels)

    def rows(self, limit: int) -> NDArray[np.int64]:
        """Return which pictures stand for the split: all, or `limit` drawn once and for all."""
        count = len(self.pictures)
        if count <= limit:
            return np.arange(count)
        return np.sort(np.random.default_rng(0).permutation(count)[:limit])

    def labels(self, rows: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Return the labels of `rows`, where there are any."""
        return None if self.pictures.labels is None else self.pictures.labels[rows]

    def features(
        self, rows: NDArray[np.int64], network: FeatureNetwork, progress: Progress | None = None
    ) -> Features:
        """Return the features of `rows`, from the cache where they are.

        What is kept is found by the pictures' content and by all that the features depend on.
        """
        chosen = hashlib.sha256(rows.astype(np.int64).tobytes()).hexdigest()[:16]
        path = cache_folder("features") / f"{network.key}-{self.sha256[:32]}-{chosen}.npz"
        if path.exists():
            with np.load(path, allow_pickle=False) as kept:
                return Features(kept["vectors"], kept.get("logits"))

        def show(done: int, total: int) -> None:
            if progress:
                progress(f"looking at real pictures ({self.split})", done, total)

        features = network.features(self.pictures.pixels[rows], show)
        arrays = {"vectors": features.vectors}
        if features.logits is not None:
            arrays["logits"] = features.logits
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        return features


@dataclass(frozen=True)
class Reference:
    """What a figure is measured against, and the pictures that were trained on where they differ.

    `held_out`: no picture of `against` was trained on.
    """

    data: DataOptions
    against: RealImages
    training: RealImages

    @property
    def held_out(self) -> bool:
        """Whether what is measured against are other pictures than those of the training split."""
        return self.against.sha256 != self.training.sha256


def open_reference(
    data: DataOptions, split: str | None = None, progress: Progress | None = None
) -> Reference:
    """Open the split to measure against: `split`, else the held-out one where the data have one.

    Raises DataError, and QualityError for a split of too few pictures.
    """
    training = _open(data, data.split, progress, needed=split is None)
    wanted = split or HELD_OUT
    against = _open(data, wanted, progress, needed=split is not None) or training
    training = training or against
    if against is None or training is None:
        raise DataError(f"{data.title} has no split {wanted!r}")
    if against.sha256 == training.sha256:
        # A folder without splits has the same pictures by any name.
        against = training
    if len(against.pictures) < 10:
        raise QualityError(f"{against.title} has {len(against.pictures)} pictures; 10 are needed")
    return Reference(data, against, training)


def _open(
    data: DataOptions, split: str, progress: Progress | None, *, needed: bool
) -> RealImages | None:
    # How training varies its pictures is no part of what they are.
    options = data.model_copy(update={"split": split, "crop": "centre"})
    if split != data.split:
        options = options.model_copy(update={"limit": None})

    def show(done: int, total: int) -> None:
        if progress:
            progress("decoding pictures", done, total)

    try:
        pictures = load_images(options, show)
    except DataError:
        if needed:
            raise
        return None
    return RealImages(f"{options.title}, split {split}", split, pictures)


def digest_of(pixels: NDArray[np.uint8]) -> str:
    """Return the SHA-256 of pictures ``[N, H, W, C]``: of their shape, then of their bytes."""
    digest = hashlib.sha256(repr(pixels.shape).encode())
    rows = max(2**24 // max(pixels[0].size, 1), 1)
    for start in range(0, len(pixels), rows):
        digest.update(pixels[start : start + rows].tobytes())
    return digest.hexdigest()


def same_classes(names: tuple[str, ...], others: tuple[str, ...]) -> bool:
    """Whether a model's classes are those of the data, which may know them by number alone."""
    if not names or others == names:
        return bool(names)
    numbered = others == tuple(str(i) for i in range(len(names)))
    # A model that knows numbers too, and other ones, means something else by them.
    return numbered and not any(name.isdigit() for name in names)
