"""Walks through latent space: pictures between pictures.

In z the way is spherical by default (White 2016, arXiv:1609.04468): a straight line between two
latents of a normal distribution passes through lengths that no latent has.
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
# The keys between which a point lies, by number, and how far it is on its way, in [0, 1).
Place = tuple[int, int, float]


@dataclass(frozen=True)
class Interpolation:
    """`frames` pictures, evenly spaced, from the first of `keys` through all of them to the last.

    A `loop` goes on to the first again, and stops one step before it. Class and truncation change
    with the frame as the latent does, and always in a straight line.
    """

    keys: tuple[LatentSource, ...]
    frames: int
    loop: bool
    space: Space
    path: Path

    def position(self, frame: int) -> Place:
        """Return where a frame lies."""
        count = len(self.keys)
        steps = self.frames if self.loop else self.frames - 1
        whole, rest = divmod(frame * (count if self.loop else count - 1), steps)
        return whole % count, (whole + 1) % count if rest else whole % count, rest / steps

    def feeds(self, frames: Sequence[int], manifest: Manifest) -> dict[str, Array]:
        """Return the inputs of the graph that takes z, a row each of `frames`, for a walk in z."""
        places = [self.position(frame) for frame in frames]
        return feeds_at(self.keys, places, self.path, manifest)

    def styles(self, w: Floats, frames: Sequence[int]) -> Floats:
        """Return the styles ``[N, layers, w_dim]`` of `frames`, from those of the keys."""
        return rows_at(w, [self.position(frame) for frame in frames], self.path)

    def parameters(self, manifest: Manifest) -> dict[str, Any]:
        """Return what the walk is, as JSON has it."""
        return {
            "sources": [key.parameters(manifest) for key in self.keys],
            "frames": self.frames,
            "loop": self.loop,
            "space": self.space,
            "path": self.path,
        }

    def frame_parameters(self, frame: int, manifest: Manifest) -> dict[str, Any]:
        """Return what one frame is: the keys that it lies between, and how far it is."""
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
        """Read what `parameters` returned."""
        keys = tuple(LatentSource.from_parameters(each, manifest) for each in said["sources"])
        return cls(keys, said["frames"], said["loop"], said["space"], said["path"])


def feeds_at(
    keys: Sequence[LatentSource], places: Sequence[Place], path: Path, manifest: Manifest
) -> dict[str, Array]:
    """Return the inputs of the graph that takes z at `places` between `keys`, a row each."""
    return {
        # Class and truncation change in a straight line.
        name: rows_at(values, places, path if name == "z" else "linear")
        for name, values in feeds(keys, manifest).items()
    }


def rows_at(rows: Array, places: Sequence[Place], path: Path) -> Array:
    """Return the points at `places` between the rows ``[K, ...]``: ``[N, ...]``."""
    made = np.empty((len(places), *rows.shape[1:]), rows.dtype)
    for i, (start, end, share) in enumerate(places):
        made[i] = between(rows[start], rows[end], share, path)
    return made


def between(start: Array, end: Array, share: float, path: Path) -> NDArray[Any]:
    """Return the point at `share` of the way from `start` to `end`; at 0, `start` to the last bit.

    The spherical way turns from one direction to the other by equal angles, along the last axis,
    while the length changes in a straight line.
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
    # Where the two point the same way, or exactly apart, no turn is defined: a line it is.
    turns = sine > 1e-6
    sine = np.where(turns, sine, 1)
    with np.errstate(invalid="ignore"):
        direction = np.sin((1 - share) * angle) / sine * a / np.maximum(lengths[0], tiny)
        direction = direction + np.sin(share * angle) / sine * b / np.maximum(lengths[1], tiny)
    length = (1 - share) * lengths[0] + share * lengths[1]
    return np.where(turns, direction * length, (1 - share) * a + share * b).astype(start.dtype)
