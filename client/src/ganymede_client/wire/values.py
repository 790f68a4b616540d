"""Converts Python and NumPy values to the JSON of requests."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ganymede_client.images import Image

# A class by name or index.
ClassSelector = str | int
# Weights of classes by name.
Weights = Mapping[str, float]
# A share of images to keep, or a mapping with `share` and `method`.
Rank = float | Mapping[str, Any]


@dataclass(frozen=True)
class Source:
    """The source of one image: one of `seed`, `z` and `w`, with its class and truncation.

    Attributes:
        z: a latent ``[z_dim]``.
        w: styles ``[layers, w_dim]``, or ``[w_dim]`` for all layers.
        class_: a class, or weights from which the class is drawn.
        blend: weights of classes that are blended.
        transform: a 3×3 matrix, or a mapping with `translate`, `rotate` and `scale`.
    """

    seed: int | None = None
    z: ArrayLike | None = None
    w: ArrayLike | None = None
    class_: ClassSelector | Weights | None = None
    blend: Weights | None = None
    truncation: float | None = None
    transform: Any = None


# A seed, a source, its fields by name, or an image of the same model, whose source is used again.
SourceLike = int | Source | Mapping[str, Any] | Image


def to_json(value: Any) -> bytes:
    """Encode a value, which may contain NumPy scalars and arrays.

    Raises TypeError for values that JSON cannot represent, and ValueError for numbers that are not
    finite.
    """
    return json.dumps(value, default=_plain, allow_nan=False, separators=(",", ":")).encode()


def encode_floats(values: ArrayLike | str) -> str:
    """Encode values as base64 of little-endian float32; text is returned as it is.

    Raises ValueError for values that are not finite in float32.
    """
    if isinstance(values, str):
        return values
    with np.errstate(over="ignore"):
        array = np.asarray(values, "<f4")
    if not np.isfinite(array).all():
        raise ValueError("expected values that are finite in float32")
    return base64.b64encode(array.tobytes()).decode()


def encode_rows(rows: Sequence[Any] | NDArray[Any] | None) -> list[str] | None:
    """Encode each row by `encode_floats`. Raises ValueError for a single vector."""
    if rows is None:
        return None
    if isinstance(rows, str) or any(not isinstance(r, str) and np.ndim(r) == 0 for r in rows):
        raise ValueError("expected a list of arrays, one for each image, and got one array")
    return [encode_floats(row) for row in rows]


def encode_sources(sources: Sequence[SourceLike], model: str) -> list[Any]:
    """Return the JSON form of sources. Raises ValueError for an image of another model."""
    return [encode_source(source, model) for source in sources]


def encode_source_objects(sources: Sequence[SourceLike], model: str) -> list[Any]:
    """Return the JSON form of sources in a list where a seed is written as an object."""
    encoded = encode_sources(sources, model)
    return [each if isinstance(each, dict) else {"seed": each} for each in encoded]


def encode_source(source: SourceLike, model: str) -> Any:
    """Return the JSON form of a source; a seed stays a number."""
    if isinstance(source, Image):
        source = source.provenance.source(model)
    if isinstance(source, Source):
        source = {each.name: getattr(source, each.name) for each in fields(source)}
    if not isinstance(source, Mapping):
        return source
    body = {name.rstrip("_"): value for name, value in source.items() if value is not None}
    return body | {name: encode_floats(body[name]) for name in ("z", "w") if name in body}


def named_weights(weights: Mapping[Any, Any]) -> dict[str, Any]:
    """Return a mapping with its keys as text, because JSON has no other keys."""
    return {str(name): weight for name, weight in weights.items()}


def class_value(value: Any) -> Any:
    """Return the JSON form of a class, a list of classes, or weights."""
    return named_weights(value) if isinstance(value, Mapping) else value


def _plain(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence):  # Such as a range of seeds.
        return list(value)
    raise TypeError(f"a request cannot contain a {type(value).__name__}")
