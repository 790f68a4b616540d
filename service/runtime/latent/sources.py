"""Where a picture comes from: a seed, a latent or styles, with a class and a truncation.

A source is complete: it holds all that its picture depends on beside the model, and it says so in
a form that goes into files and answers and comes back from them.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from service.runtime.latent import seeds as latents
from service.runtime.latent.transforms import Matrix, as_transform, identity_transforms
from service.runtime.models.manifest import CLASS_WEIGHTS, GENERATOR, MAPPING, TRANSFORM, Manifest

Floats = NDArray[np.float32]
# The weights of classes by index. One class alone has the weight 1.
ClassWeights = Mapping[int, float]


@dataclass(frozen=True, eq=False)
class LatentSource:
    """One of `seed`, `z` ``[z_dim]`` and `w` ``[layers, w_dim]``, and what goes with it.

    `classes` and `truncation` are None where the model has none, and for a `w`, which they have
    made already. Where the picture lies as it does by itself there is no `transform`.
    """

    seed: int | None = None
    z: Floats | None = None
    w: Floats | None = None
    classes: ClassWeights | None = None
    truncation: float | None = None
    transform: Matrix | None = None

    @cached_property
    def key(self) -> Hashable:
        """What the source says of its styles: equal for two that say the same."""
        value = self.w if self.w is not None else self.z
        given = self.seed if value is None else (value.ndim, value.tobytes())
        classes = None if self.classes is None else tuple(sorted(self.classes.items()))
        return (given, classes, self.truncation)

    @property
    def name(self) -> str:
        """A few characters for the name of a file: ``seed-7``, or ``z`` or ``w``."""
        if self.seed is not None:
            return f"seed-{self.seed}"
        return "z" if self.z is not None else "w"

    def parameters(self, manifest: Manifest) -> dict[str, Any]:
        """Return what the source is, as JSON has it; arrays are `encode_floats`."""
        said: dict[str, Any] = {}
        if self.seed is not None:
            said["seed"] = self.seed
        elif self.z is not None:
            said["z"] = encode_floats(self.z)
        elif self.w is not None:
            said["w"] = encode_floats(self.w)
        if self.classes is not None:
            said |= class_parameters(self.classes, manifest.classes)
        if self.truncation is not None:
            said["truncation"] = self.truncation
        if self.transform is not None:
            said[TRANSFORM] = self.transform.tolist()
        return said

    @classmethod
    def from_parameters(cls, said: Mapping[str, Any], manifest: Manifest) -> Self:
        """Read what `parameters` returned. Raises ValueError for what it cannot have been."""
        source = cls(
            seed=said.get("seed"),
            z=_read(said, "z"),
            w=_read(said, "w"),
            truncation=said.get("truncation"),
            transform=as_transform(said[TRANSFORM]) if TRANSFORM in said else None,
        )
        if source.w is not None:
            source = replace(source, w=as_w(source.w, manifest))
        if "class" in said or "blend" in said:
            names = {name: i for i, name in enumerate(manifest.classes)}
            weights = said.get("blend") or {said["class"]: 1.0}
            if not set(weights) <= set(names):
                raise ValueError(f"the classes {list(weights)} are not {manifest.name}'s")
            source = replace(source, classes={names[n]: float(v) for n, v in weights.items()})
        return source


def class_parameters(weights: ClassWeights, names: Sequence[str]) -> dict[str, Any]:
    """Return the class of a picture by name, as `class`, or `blend` for several with weights."""
    if len(weights) == 1:
        (index,) = weights
        return {"class": names[index]}
    return {"blend": {names[index]: weight for index, weight in weights.items()}}


def encode_floats(values: NDArray[Any]) -> str:
    """Return float32 values, little-endian and in row-major order, in base64."""
    return base64.b64encode(np.ascontiguousarray(values, "<f4").tobytes()).decode()


def decode_floats(text: str) -> Floats:
    """Read what `encode_floats` wrote, as one axis. Raises ValueError."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("not base64") from error
    if len(raw) % 4:
        raise ValueError(f"float32 values take 4 bytes each, and there are {len(raw)} bytes")
    return np.frombuffer(raw, "<f4").astype(np.float32)


def as_z(values: Floats, manifest: Manifest) -> Floats:
    """Return a z ``[z_dim]`` for `manifest`. Raises ValueError for another length."""
    assert manifest.latent is not None  # noqa: S101 - the manifest sees to it
    if values.shape != (manifest.latent.dimension,):
        raise ValueError(
            f"expected {manifest.latent.dimension} values, got {'×'.join(map(str, values.shape))}"
        )
    return values


def as_w(values: Floats, manifest: Manifest) -> Floats:
    """Return a w ``[layers, w_dim]`` from one for each layer, or from one for all of them.

    Raises ValueError for another number of values, and for a model without styles.
    """
    space = manifest.styles
    if space is None:
        raise ValueError(f"{manifest.name} has no styles")
    layers, width = len(space.layers), space.dimension
    if values.size == width:
        return np.broadcast_to(values.reshape(width), (layers, width))
    if values.size != layers * width:
        raise ValueError(
            f"expected {layers}×{width} values, or {width} for all layers, got {values.size}"
        )
    return values.reshape(layers, width)


def draw_class(weights: ClassWeights, seed: int) -> int:
    """Return the class of `seed` where classes are drawn: with probabilities as their weights.

    It depends on the seed alone, and not on the latent that is drawn from the same seed.
    """
    indices = sorted(weights)
    shares = np.cumsum([weights[index] for index in indices])
    # A second word of entropy keeps this stream apart from any that the seed alone begins.
    value = np.random.default_rng((seed, 1)).random() * shares[-1]
    return indices[int(np.searchsorted(shares, value, side="right"))]


def feeds(sources: Sequence[LatentSource], manifest: Manifest) -> dict[str, NDArray[Any]]:
    """Return the inputs, a row each, of the graph that takes z. Sources of `w` have none.

    Raises ValueError for a seed out of range, and for a blend of classes where the graph takes an
    index.
    """
    space = manifest.latent
    assert space is not None  # noqa: S101 - the manifest sees to it
    z = np.empty((len(sources), space.dimension), np.float32)
    seeded = [i for i, source in enumerate(sources) if source.z is None]
    seeds = [seed for source in sources if (seed := source.seed) is not None and source.z is None]
    if seeded:
        z[seeded] = latents.draw(seeds, space.dimension, space.distribution)
    for i, source in enumerate(sources):
        if source.z is not None:
            z[i] = source.z
    given: dict[str, NDArray[Any]] = {"z": z}
    if manifest.classes:
        given |= class_feed([source.classes or {0: 1.0} for source in sources], manifest)
    if space.truncation:
        default = space.truncation.default
        given["truncation"] = np.array(
            [default if s.truncation is None else s.truncation for s in sources], np.float32
        )
    return given


def transform_feed(sources: Sequence[LatentSource], manifest: Manifest) -> dict[str, NDArray[Any]]:
    """Return the transforms of `sources` ``[N, 3, 3]``, for the graph that takes w; nothing where
    none of them has one.

    Raises ValueError for a model that takes none.
    """
    if all(source.transform is None for source in sources):
        return {}
    if not manifest.takes_transform:
        raise ValueError(f"{manifest.name} takes no transform")
    made = identity_transforms(len(sources)).copy()
    for row, source in zip(made, sources, strict=True):
        if source.transform is not None:
            row[:] = source.transform
    return {TRANSFORM: made}


def class_feed(rows: Sequence[ClassWeights], manifest: Manifest) -> dict[str, NDArray[Any]]:
    """Return the class input of `rows`, in the form that the graph takes. Raises ValueError."""
    if can_blend(manifest):
        weights = np.zeros((len(rows), len(manifest.classes)), np.float32)
        for row, classes in zip(weights, rows, strict=True):
            row[list(classes)] = list(classes.values())
        return {"class_weights": weights}
    if any(len(classes) > 1 for classes in rows):
        raise ValueError(f"{manifest.name} cannot blend classes: its graph takes one by its index")
    return {"class_index": np.array([next(iter(classes)) for classes in rows], np.int64)}


def can_blend(manifest: Manifest) -> bool:
    """Whether classes can be blended."""
    first = manifest.graphs.get(MAPPING) or manifest.graphs[GENERATOR]
    return CLASS_WEIGHTS in first.inputs


def _read(said: Mapping[str, Any], name: str) -> Floats | None:
    return decode_floats(said[name]) if name in said else None
