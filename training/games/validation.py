"""Shared parts of the games' validations.

Games without pairs compare generated images with the training images, because a held-out split that
selects the best checkpoint is no longer held out. Paired games use held-out pairs; see
`training.games.paired.validation`.
"""

from __future__ import annotations

import numpy as np

from training.data.images import DataOptions, ImageData, center_crops, load_images
from training.evaluation.during_training import EvaluateOptions
from training.evaluation.errors import QualityError
from training.evaluation.features.networks import open_network
from training.evaluation.features.references import RealImages
from training.evaluation.metrics import validate_features
from training.games.game import Pixels

# The same minimum as in `ganymede evaluate`.
_MIN_IMAGES = 10


class DistributionMetrics:
    """Compares sets of generated images with one set of real images."""

    def __init__(self, options: EvaluateOptions, real: RealImages) -> None:
        """Compute the features of the real images, or read them from the cache.

        Raises QualityError.
        """
        if len(real.images) < _MIN_IMAGES:
            raise QualityError(
                f"evaluate: {real.title} has {len(real.images)} images; "
                f"at least {_MIN_IMAGES} are needed"
            )
        self._network = open_network(options.network)
        features = real.features(real.rows(options.reference_samples), self._network)
        # In random order, because metrics that need equal counts use the first rows.
        self._real = features[np.random.default_rng(0).permutation(len(features))]

    def measure(self, images: Pixels) -> dict[str, float]:
        """Return the metrics of ``[N, H, W, C] uint8``."""
        return validate_features(self._network.features(images), self._real)


def training_images(data: DataOptions) -> RealImages:
    """Return the training images; their center crops if they are stored for random crops."""
    return real_images(data, center_crops(load_images(data), data.resolution))


def real_images(data: DataOptions, images: ImageData) -> RealImages:
    """Return the images of a data set and split, with a human-readable title."""
    return RealImages(f"{data.dataset_title}, split {data.split_name}", data.split_name, images)


def nothing_held_out(data: DataOptions) -> QualityError:
    """Return the error for a recipe that requires held-out images but has none."""
    return QualityError(f"evaluate.against: {data.dataset_title} has no held-out images")
