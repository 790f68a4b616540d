"""Interpolation in latent space.

In z the path is spherical by default (White 2016, arXiv:1609.04468): on a straight line between two
normally distributed latents, the norm drops to values that samples practically never have.
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
        whole, rest = divmod(frame * (count if self.loop else count - 1), steps)
        return whole % count, (whole + 1) % count if rest else whole % count, rest / steps

    def feeds(self, frames: Sequence[int], manifest: Manifest) -> dict[str, Array]:
        """Return the graph inputs for `frames`, one row each, for interpolation in z."""
        places = [self.position(frame) for frame in frames]
        return feeds_at(self.keys, places, self.path, manifest)

    def styles(self, w: Floats, frames: Sequence[int]) -> Floats:
        """Return the styles ``[N, layers, w_dim]`` of `frames`, given those of the keys."""
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
        start, end, share = self.position(frame)
        return {
            "from": self.keys[start].parameters(manifest),
            "to": self.keys[end].parameters(manifest),
            "at": share,
            "space": self.space,
            "path": self.path,
        }

    @classmethod
    def from_parameters(cls, said: Mapping[str, Any], manifest: Manifest) -> Self:
        """Parse the output of `parameters`."""
        keys = tuple(LatentSource.from_parameters(each, manifest) for each in said["sources"])
        return cls(keys, said["frames"], said["loop"], said["space"], said["path"])


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
    made = np.empty((len(places), *rows.shape[1:]), rows.dtype)
    for i, (start, end, share) in enumerate(places):
        made[i] = between(rows[start], rows[end], share, path)
    return made


def between(start: Array, end: Array, share: float, path: Path) -> NDArray[Any]:
    """Interpolate from `start` to `end`; a `share` of 0 returns `start` bit for bit.

    The spherical path interpolates the direction along the last axis by angle, and the norm
    linearly.
    """
    if share == 0 or np.array_equal(start, end):
        return start
    if path == "linear" or start.dtype.kind != "f":
        return ((1 - share) * start + share * end).astype(start.dtype)
    a, b = start.astype(np.float64), end.astype(np.float64)
    lengths = [np.linalg.norm(each, axis=-1, keepdims=True) for each in (a, b)]
    tiny = np.finfo(np.float64).tiny
    cosine = (a * b).sum(-1, keepdims=True) / np.maximum(lengths[0] * lengths[1], tiny)
    angle = np.arccos(np.clip(cosine, -1, 1))
    sine = np.sin(angle)
    # Parallel and opposite vectors define no plane of rotation: interpolate linearly.
    turns = sine > 1e-6
    sine = np.where(turns, sine, 1)
    with np.errstate(invalid="ignore"):
        direction = np.sin((1 - share) * angle) / sine * a / np.maximum(lengths[0], tiny)
        direction = direction + np.sin(share * angle) / sine * b / np.maximum(lengths[1], tiny)
    length = (1 - share) * lengths[0] + share * lengths[1]
    return np.where(turns, direction * length, (1 - share) * a + share * b).astype(start.dtype)
