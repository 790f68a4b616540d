"""Interpolation in latent space.

In z the path is spherical by default (White 2016, arXiv:1609.04468). On a straight line between two
normally distributed latents, the norm would drop to values that hardly ever occur in samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from service.runtime.latent.sources import Floats, LatentSource, feeds
from service.runtime.models.manifest import Manifest
from service.runtime.onnx.sessions import Array

Space = Literal["z", "w"]
Path = Literal["linear", "spherical"]
# Indices of the two neighboring keys, and the position between them in [0, 1).
Place = tuple[int, int, float]


@dataclass(frozen=True)
class Interpolation:
    """A sequence of `frames` evenly spaced images from the first of `keys` to the last.

    A `loop` continues to the first key and ends one step before it. Class weights and truncation
    are interpolated along with the latent, always linearly.
    """

    keys: tuple[LatentSource, ...]
    frames: int
    loop: bool
    space: Space
    path: Path

    def position(self, frame: int) -> Place:
        """Return the position of a frame between the keys."""
        count = len(self.keys)
        steps = self.frames if self.loop else self.frames - 1
        segment, rest = divmod(frame * (count if self.loop else count - 1), steps)
        return segment % count, (segment + 1) % count if rest else segment % count, rest / steps

    def feeds(self, frames: Sequence[int], manifest: Manifest) -> dict[str, Array]:
        """Return the graph inputs for `frames`, one row each, for interpolation in z."""
        places = [self.position(frame) for frame in frames]
        return feeds_at(self.keys, places, self.path, manifest)

    def styles(self, w: Floats, frames: Sequence[int]) -> Floats:
        """Return the styles ``[N, layers, w_dim]`` of `frames`; `w` are the styles of the keys."""
        return rows_at(w, [self.position(frame) for frame in frames], self.path)

    def parameters(self, manifest: Manifest) -> dict[str, Any]:
        """Return the JSON form of the interpolation."""
        return {
            "sources": [key.parameters(manifest) for key in self.keys],
            "frames": self.frames,
            "loop": self.loop,
            "space": self.space,
            "path": self.path,
        }

    def frame_parameters(self, frame: int, manifest: Manifest) -> dict[str, Any]:
        """Return the JSON form of one frame: its neighboring keys and the position between them."""
        return self.place_parameters(self.position(frame), manifest)

    def place_parameters(self, place: Place, manifest: Manifest) -> dict[str, Any]:
        """Return the JSON form of the image at one place."""
        start, end, fraction = place
        return {
            "from": self.keys[start].parameters(manifest),
            "to": self.keys[end].parameters(manifest),
            "at": fraction,
            "space": self.space,
            "path": self.path,
        }

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any], manifest: Manifest) -> Self:
        """Parse the output of `parameters`."""
        keys = tuple(LatentSource.from_parameters(each, manifest) for each in parameters["sources"])
        return cls(
            keys, parameters["frames"], parameters["loop"], parameters["space"], parameters["path"]
        )


def feeds_at(
    keys: Sequence[LatentSource], places: Sequence[Place], path: Path, manifest: Manifest
) -> dict[str, Array]:
    """Return the graph inputs at `places` between `keys`, one row each."""
    return {
        # Class weights and truncation are always interpolated linearly.
        name: rows_at(values, places, path if name == "z" else "linear")
        for name, values in feeds(keys, manifest).items()
    }


def rows_at(rows: Array, places: Sequence[Place], path: Path) -> Array:
    """Interpolate between rows ``[K, ...]`` at `places`; return ``[N, ...]``."""
    interpolated = np.empty((len(places), *rows.shape[1:]), rows.dtype)
    for i, (start, end, fraction) in enumerate(places):
        interpolated[i] = between(rows[start], rows[end], fraction, path)
    return interpolated


def between(start: Array, end: Array, fraction: float, path: Path) -> NDArray[Any]:
    """Interpolate from `start` to `end`; a `fraction` of 0 returns `start` bit for bit.

    The spherical path interpolates the direction along the last axis by angle, and the norm
    linearly.
    """
    if fraction == 0 or np.array_equal(start, end):
        return start
    if path == "linear" or start.dtype.kind != "f":
        return ((1 - fraction) * start + fraction * end).astype(start.dtype)
    a, b = start.astype(np.float64), end.astype(np.float64)
    lengths = [np.linalg.norm(each, axis=-1, keepdims=True) for each in (a, b)]
    tiny = np.finfo(np.float64).tiny
    cosine = (a * b).sum(-1, keepdims=True) / np.maximum(lengths[0] * lengths[1], tiny)
    angle = np.arccos(np.clip(cosine, -1, 1))
    sine = np.sin(angle)
    # Parallel and opposite vectors do not define a plane of rotation: interpolate linearly.
    has_plane = sine > 1e-6
    sine = np.where(has_plane, sine, 1)
    with np.errstate(invalid="ignore"):
        direction = np.sin((1 - fraction) * angle) / sine * a / np.maximum(lengths[0], tiny)
        direction = direction + np.sin(fraction * angle) / sine * b / np.maximum(lengths[1], tiny)
    length = (1 - fraction) * lengths[0] + fraction * lengths[1]
    return np.where(has_plane, direction * length, (1 - fraction) * a + fraction * b).astype(
        start.dtype
    )
