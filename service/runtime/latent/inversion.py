"""Inversion: the latent whose image is most like a given image (ReStyle, arXiv:2104.02699).

`service.runtime.generation.inversion_plan` alternates the encoder and the generator. This module
holds its parts without graphs: the first latents, the candidates, and the choice of the best.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.runtime.images.encoding import Pixels
from service.runtime.latent.sources import Floats, LatentSource, as_w, as_z, decode_floats
from service.runtime.models.manifest import Manifest

# A model with more classes needs the class of an image: every class takes as long as one image.
MAX_TRIED_CLASSES = 100


class InversionFailed(Exception):
    """The encoder returned no finite latent."""


@dataclass(frozen=True)
class Inversion:
    """The latent of one image: the best of all passes, and of all classes that were tried.

    `source` holds w ``[layers, w_dim]``, or z ``[z_dim]`` with its class. `mean_squared_error` is
    that of the `reconstruction` ``[H, W, C] uint8``, with values from 0 to 1. `passed` is the
    number of the pass. `tried` are the classes that were tried; empty if there was no choice.
    """

    source: LatentSource
    reconstruction: Pixels
    mean_squared_error: float
    passed: int
    tried: int = 0

    @property
    def latent(self) -> Floats:
        """The latent w or z."""
        latent = self.source.z if self.source.w is None else self.source.w
        assert latent is not None  # noqa: S101 - one of both is set
        return latent

    @property
    def psnr(self) -> float | None:
        """The peak signal-to-noise ratio in dB; None if the reconstruction is exact."""
        return peak_signal_to_noise(self.mean_squared_error)

    def parameters(self) -> dict[str, Any]:
        """Return the distances as a JSON object."""
        parameters: dict[str, Any] = {
            "pass": self.passed,
            "psnr": self.psnr,
            "mean_squared_error": self.mean_squared_error,
        }
        return parameters | ({"classes_tried": self.tried} if self.tried else {})


def peak_signal_to_noise(mean_squared_error: float) -> float | None:
    """Return the PSNR in dB for values from 0 to 1; None for an error of 0."""
    return -10 * math.log10(mean_squared_error) if mean_squared_error > 0 else None


def mean_squared_errors(images: Pixels, reconstructions: Pixels) -> NDArray[np.float64]:
    """Return the error of each image ``[N, H, W, C] uint8``, for values from 0 to 1."""
    differences = (images.astype(np.float32) - reconstructions) / 255
    errors: NDArray[np.float64] = np.square(differences).mean(axis=(1, 2, 3), dtype=np.float64)
    return errors


def start_source(manifest: Manifest, class_index: int | None = None) -> LatentSource:
    """Return the latent of the first pass. Raises ValueError if the model has no encoder."""
    if manifest.encoder is None:
        raise ValueError(f"{manifest.name} has no encoder")
    start = decode_floats(manifest.encoder.start)
    if manifest.styles is not None:
        return LatentSource(w=as_w(start, manifest))
    limit = manifest.latent.truncation if manifest.latent else None
    return LatentSource(
        z=as_z(start, manifest),
        classes=None if class_index is None else {class_index: 1.0},
        truncation=limit.default if limit else None,
    )


class Candidates:
    """The latents that one inversion follows: for every image one for each of `classes`.

    Rows are in the order of images, then of classes. `classes` is empty for a model that needs no
    class.
    """

    def __init__(self, manifest: Manifest, images: Pixels, classes: Sequence[int]) -> None:
        starts = [start_source(manifest, each) for each in classes] or [start_source(manifest)]
        self.starts = starts
        self.images = np.repeat(images, len(starts), axis=0)
        self.sources = [*starts] * len(images)
        self._space = manifest.latent_space_name
        self._best: list[Inversion | None] = [None] * len(self.sources)

    @property
    def latents(self) -> Floats:
        """The current latents ``[rows, layers, w_dim]`` or ``[rows, z_dim]``."""
        return np.stack([getattr(source, self._space) for source in self.sources])

    def move(self, latents: Floats) -> None:
        """Replace the current latents."""
        self.sources = [
            replace(source, **{self._space: latent})
            for source, latent in zip(self.sources, latents, strict=True)
        ]

    def keep_better(self, reconstructions: Pixels, passed: int) -> None:
        """Keep each current latent whose reconstruction is the best so far."""
        errors = mean_squared_errors(self.images, reconstructions)
        for i, (source, error) in enumerate(zip(self.sources, errors, strict=True)):
            before = self._best[i]
            is_valid = bool(np.isfinite(getattr(source, self._space)).all())
            if is_valid and (before is None or error < before.mean_squared_error):
                self._best[i] = Inversion(source, reconstructions[i], float(error), passed)

    def best(self) -> list[Inversion]:
        """Return the best inversion of each image. Raises InversionFailed."""
        count = len(self.starts)
        chosen = []
        for row in range(0, len(self._best), count):
            found = [each for each in self._best[row : row + count] if each is not None]
            if not found:
                raise InversionFailed("the encoder returned values that are not finite")
            best = min(found, key=lambda each: each.mean_squared_error)
            chosen.append(replace(best, tried=count if count > 1 else 0))
        return chosen
