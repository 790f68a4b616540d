"""The nearest of a model's own samples to an image, for models without an encoder.

The samples have the seeds 0, 1, 2, …; their number depends on the model alone, so that the result
is deterministic. They are compared as thumbnails, which are kept between requests.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from service.runtime.images.encoding import Pixels, resized
from service.runtime.latent.inversion import mean_squared_errors
from service.runtime.models.manifest import Manifest

# Pixels of all samples of a model together, which bounds the time that they take.
_SAMPLE_PIXELS = 2**22
_MIN_SAMPLES, _MAX_SAMPLES = 16, 256
# Longest side of a thumbnail, in pixels.
_THUMBNAIL_SIDE = 32
_CACHE_BYTES = 2**24


def sample_count(manifest: Manifest) -> int:
    """Return the number of samples that are compared: 256 for small images, 16 for large ones."""
    return min(max(_SAMPLE_PIXELS // manifest.image_spec.pixels, _MIN_SAMPLES), _MAX_SAMPLES)


def sample_classes(manifest: Manifest, class_index: int | None) -> list[int] | None:
    """Return the class of each sample: the given one, or all classes in turn.

    None for a model without classes.
    """
    if not manifest.classes:
        return None
    if class_index is not None:
        return [class_index] * sample_count(manifest)
    return [seed % len(manifest.classes) for seed in range(sample_count(manifest))]


def thumbnails(images: Pixels) -> Pixels:
    """Return images ``[N, H, W, C] uint8`` with sides of at most 32 pixels."""
    height, width = images.shape[1:3]
    scale = _THUMBNAIL_SIDE / max(height, width)
    if scale >= 1:
        return images
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.stack([resized(np.ascontiguousarray(image), *size) for image in images])


def nearest(samples: Pixels, image: Pixels) -> tuple[int, float]:
    """Return the index of the sample with the least mean squared error, and that error.

    `samples` are thumbnails ``[N, h, w, C]``, and `image` ``[H, W, C]`` has the model's size. The
    error is of values from 0 to 1. Of equal samples, the first is returned.
    """
    target = thumbnails(image[None])
    errors: NDArray[np.float64] = mean_squared_errors(samples, target)
    index = int(errors.argmin())
    return index, float(errors[index])


class SampleCache:
    """Thumbnails of parts of the samples of models, up to 16 MiB; the least recently used go."""

    def __init__(self) -> None:
        self._parts: OrderedDict[Hashable, Pixels] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: Sequence[Hashable]) -> Pixels | None:
        """Return a part, or None if it is not in the cache."""
        with self._lock:
            part = self._parts.get(tuple(key))
            if part is not None:
                self._parts.move_to_end(tuple(key))
            return part

    def put(self, key: Sequence[Hashable], part: Pixels) -> None:
        """Add a part."""
        with self._lock:
            before = self._parts.pop(tuple(key), None)
            self._bytes += part.nbytes - (0 if before is None else before.nbytes)
            self._parts[tuple(key)] = part
            while self._bytes > _CACHE_BYTES:
                _, dropped = self._parts.popitem(last=False)
                self._bytes -= dropped.nbytes
