"""The source of a generated image: a seed, a latent z or styles w, with class and truncation.

A source and a model determine an image completely. Sources are written to files and responses as
JSON parameters, and can be read back from them.
"""

from __future__ import annotations

import base64
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from service.runtime.base64_text import decode_base64
from service.runtime.latent import seeds as latents
from service.runtime.latent.transforms import Matrix, as_transform, identity_transforms
from service.runtime.models.manifest import Manifest
from service.runtime.models.parts.graphs import CLASS_WEIGHTS, GENERATOR, MAPPING, TRANSFORM

Floats = NDArray[np.float32]
# Weights by class index. A single class has weight 1.
ClassWeights = Mapping[int, float]


@dataclass(frozen=True, eq=False)
class LatentSource:
    """Exactly one of `seed`, `z` ``[z_dim]`` and `w` ``[layers, w_dim]``, and the conditions.

    `prompt` is a description in words, for models that take one, and `text` ``[d]`` its vector;
    without a vector, the prompt is empty.

    `classes` and `truncation` are None for models without them, and for a `w`, which already
    includes them. `transform` ``[3, 3]`` is None for the identity.
    """

    seed: int | None = None
    z: Floats | None = None
    w: Floats | None = None
    classes: ClassWeights | None = None
    truncation: float | None = None
    transform: Matrix | None = None
    prompt: str | None = None
    text: Floats | None = None

    @cached_property
    def key(self) -> Hashable:
        """A cache key of the styles: sources that differ only in the transform have equal keys."""
        value = self.w if self.w is not None else self.z
        latent = self.seed if value is None else (value.ndim, value.tobytes())
        classes = None if self.classes is None else tuple(sorted(self.classes.items()))
        text = None if self.text is None else self.text.tobytes()
        return (latent, classes, self.truncation, text)

    @property
    def name(self) -> str:
        """A short label for file names: ``seed-7``, ``z`` or ``w``."""
        if self.seed is not None:
            return f"seed-{self.seed}"
        return "z" if self.z is not None else "w"

    def parameters(self, manifest: Manifest) -> dict[str, Any]:
        """Return the source as a JSON object; arrays are encoded by `encode_floats`."""
        parameters: dict[str, Any] = {}
        if self.seed is not None:
            parameters["seed"] = self.seed
        elif self.z is not None:
            parameters["z"] = encode_floats(self.z)
        elif self.w is not None:
            parameters["w"] = encode_floats(self.w)
        if self.classes is not None:
            parameters |= class_parameters(self.classes, manifest.classes)
        if self.truncation is not None:
            parameters["truncation"] = self.truncation
        if self.transform is not None:
            parameters[TRANSFORM] = self.transform.tolist()
        if self.prompt is not None:
            parameters["prompt"] = self.prompt
        if manifest.text_input is not None:
            parameters["encoder_digest"] = manifest.text_input.encoder_digest
        return parameters

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any], manifest: Manifest) -> Self:
        """Read the result of `parameters`. Raises ValueError if it is invalid for the model.

        The `text` of a prompt is left out: it takes the text encoder.
        """
        source = cls(
            seed=parameters.get("seed"),
            z=_floats(parameters, "z"),
            w=_floats(parameters, "w"),
            truncation=parameters.get("truncation"),
            transform=as_transform(parameters[TRANSFORM]) if TRANSFORM in parameters else None,
            prompt=parameters.get("prompt"),
        )
        if source.w is not None:
            source = replace(source, w=as_w(source.w, manifest))
        if "class" in parameters or "blend" in parameters:
            names = {name: i for i, name in enumerate(manifest.classes)}
            weights = parameters.get("blend") or {parameters["class"]: 1.0}
            if not set(weights) <= set(names):
                raise ValueError(
                    f"{manifest.name} does not have all of the classes {list(weights)}"
                )
            source = replace(source, classes={names[n]: float(v) for n, v in weights.items()})
        return source


def class_parameters(weights: ClassWeights, names: Sequence[str]) -> dict[str, Any]:
    """Return ``{"class": name}``, or ``{"blend": {name: weight}}`` for several classes."""
    if len(weights) == 1:
        (index,) = weights
        return {"class": names[index]}
    return {"blend": {names[index]: weight for index, weight in weights.items()}}


def encode_floats(values: NDArray[Any]) -> str:
    """Encode values as base64 of little-endian float32 in row-major order."""
    return base64.b64encode(np.ascontiguousarray(values, "<f4").tobytes()).decode()


def decode_floats(text: str) -> Floats:
    """Decode the output of `encode_floats` as a vector. Raises ValueError."""
    try:
        raw = decode_base64(text)
    except ValueError as error:
        raise ValueError("not base64") from error
    if len(raw) % 4:
        raise ValueError(f"float32 values take 4 bytes each, got {len(raw)} bytes")
    return np.frombuffer(raw, "<f4").astype(np.float32)


def as_z(values: Floats, manifest: Manifest) -> Floats:
    """Return `values` if they are a z ``[z_dim]`` of the model. Raises ValueError otherwise."""
    assert manifest.latent is not None  # noqa: S101 - ensured by the manifest
    if values.shape != (manifest.latent.dimension,):
        raise ValueError(
            f"expected {manifest.latent.dimension} values, got {'×'.join(map(str, values.shape))}"
        )
    return values


def as_w(values: Floats, manifest: Manifest) -> Floats:
    """Return a w ``[layers, w_dim]`` from one style per layer, or from one style for all layers.

    Raises ValueError for any other number of values, or if the model has no styles.
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
    """Draw the class index for `seed`, with probabilities proportional to the weights.

    The result depends on the seed only, and is independent of the latent of the same seed.
    """
    indices = sorted(weights)
    shares = np.cumsum([weights[index] for index in indices])
    # The second word of entropy makes this stream independent of the stream of the seed alone.
    value = np.random.default_rng((seed, 1)).random() * shares[-1]
    return indices[int(np.searchsorted(shares, value, side="right"))]


def feeds(sources: Sequence[LatentSource], manifest: Manifest) -> dict[str, NDArray[Any]]:
    """Return the inputs of the graph that takes z, one row per source. A source must not be a `w`.

    Raises ValueError if a source has neither a seed nor a latent, if a seed is out of range, or if
    classes are blended but the graph takes a class index.
    """
    space = manifest.latent
    assert space is not None  # noqa: S101 - ensured by the manifest
    seeds = [seed for source in sources if (seed := source.seed) is not None and source.z is None]
    drawn = latents.draw(seeds, space.dimension, space.distribution)
    if len(seeds) == len(sources):
        z = drawn
    else:
        if any(source.z is None and source.seed is None for source in sources):
            raise ValueError("a source has neither a seed nor a latent")
        rows = iter(drawn)
        z = np.array([next(rows) if s.z is None else s.z for s in sources], np.float32)
    inputs: dict[str, NDArray[Any]] = {"z": z}
    if manifest.classes:
        inputs |= class_feed([source.classes or {0: 1.0} for source in sources], manifest)
    if space.truncation:
        default = space.truncation.default
        inputs["truncation"] = np.array(
            [default if s.truncation is None else s.truncation for s in sources], np.float32
        )
    if (text := manifest.text_input) is not None:
        empty = np.zeros(text.dimension, np.float32)
        inputs["text"] = np.array([empty if s.text is None else s.text for s in sources])
    return inputs


def transform_feed(sources: Sequence[LatentSource], manifest: Manifest) -> dict[str, NDArray[Any]]:
    """Return the transform input ``[N, 3, 3]`` of the graph that takes w.

    The result is empty if no source has a transform. Raises ValueError if one has a transform and
    the model does not support transforms.
    """
    if all(source.transform is None for source in sources):
        return {}
    if not manifest.takes_transform:
        raise ValueError(f"{manifest.name} does not support transforms")
    transforms = identity_transforms(len(sources)).copy()
    for row, source in zip(transforms, sources, strict=True):
        if source.transform is not None:
            row[:] = source.transform
    return {TRANSFORM: transforms}


def class_feed(rows: Sequence[ClassWeights], manifest: Manifest) -> dict[str, NDArray[Any]]:
    """Return the class input of the graph, one row per entry. Raises ValueError."""
    if can_blend(manifest):
        weights = np.zeros((len(rows), len(manifest.classes)), np.float32)
        for row, classes in zip(weights, rows, strict=True):
            row[list(classes)] = list(classes.values())
        return {"class_weights": weights}
    if any(len(classes) > 1 for classes in rows):
        raise ValueError(f"{manifest.name} cannot blend classes: its graph takes a class index")
    return {"class_index": np.array([next(iter(classes)) for classes in rows], np.int64)}


def can_blend(manifest: Manifest) -> bool:
    """Return whether the model can blend classes."""
    first = manifest.graphs.get(MAPPING) or manifest.graphs[GENERATOR]
    return CLASS_WEIGHTS in first.inputs


def _floats(parameters: Mapping[str, Any], name: str) -> Floats | None:
    return decode_floats(parameters[name]) if name in parameters else None
