"""The fields of a request that describe sources, and their validation for one model.

`requests` is built on it. Invalid input raises InvalidRequest with the name of the field.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from service.runtime.errors import UserError
from service.runtime.formatting import exact
from service.runtime.latent.editing import MAX_AMOUNT
from service.runtime.latent.seeds import MAX_SEED
from service.runtime.latent.sources import (
    ClassWeights,
    Floats,
    LatentSource,
    as_w,
    as_z,
    can_blend,
    decode_floats,
    draw_class,
)
from service.runtime.latent.transforms import Matrix, as_transform, motion_transform
from service.runtime.models.manifest import Manifest
from service.runtime.models.parts.latent import StyleSpace

# A class by name or index; several with weights, by name or, as text, by index.
ClassSelector = str | int
WeightsValue = Mapping[str, float]
ClassValue = ClassSelector | WeightsValue
# A layer by index, or all layers of a group.
LayerSelector = str | int
LayersValue = LayerSelector | Sequence[LayerSelector] | Mapping[str, float]
# Floats in nested lists, or little-endian float32 in base64.
FloatsValue = str | Sequence[float] | Sequence[Sequence[float]]

_MAX_SHOWN_NAMES = 20
# Longer digit strings are names: an index never has more digits.
_MAX_INDEX_DIGITS = 9


class InvalidRequest(UserError):
    """A field of a request is invalid. `field` is its name, `message` gives the reason."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class MotionValue(NamedTuple):
    """Translation (in fractions of the side), rotation (degrees) and scale of an image."""

    translate: Sequence[float]
    rotate: float
    scale: float


TransformValue = MotionValue | Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True)
class SourceFields:
    """The fields that describe one source, not validated yet."""

    seed: int | None = None
    z: FloatsValue | None = None
    w: FloatsValue | None = None
    class_: ClassValue | None = None
    blend: WeightsValue | None = None
    truncation: float | None = None
    transform: TransformValue | None = None


class SourceParser:
    """Validates the sources of one model. `field` and `path` name fields in InvalidRequest."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest

    def sources(
        self,
        items: Sequence[SourceFields],
        field: str,
        class_: ClassValue | None,
        truncation: float | None,
    ) -> list[LatentSource]:
        """Return the source of each item; class and truncation default to the request's."""
        for i, item in enumerate(items):
            if item.transform is not None:
                raise InvalidRequest(f"{field}.{i}.transform", "is only for /v1/generate")
        # The defaults are validated even if every source overrides them.
        self.classes(class_, "class", 0)
        self.truncation(truncation, "truncation")
        return [
            self.source(item, f"{field}.{i}.", i, class_, truncation)
            for i, item in enumerate(items)
        ]

    def source(
        self,
        fields: SourceFields,
        path: str,
        number: int,
        class_: ClassValue | None = None,
        truncation: float | None = None,
        blend: WeightsValue | None = None,
    ) -> LatentSource:
        """Return the source of image `number`; `path` is the prefix of its fields' names."""
        if sum(value is not None for value in (fields.seed, fields.z, fields.w)) != 1:
            raise InvalidRequest(path.rstrip(".") or "seed", "give exactly one of seed, z and w")
        if fields.seed is not None and not 0 <= fields.seed <= MAX_SEED:
            raise InvalidRequest(f"{path}seed", f"expected 0 to {MAX_SEED}, got {fields.seed}")
        if fields.w is not None:
            for name in ("class_", "blend", "truncation"):
                if getattr(fields, name) is not None:
                    raise InvalidRequest(
                        f"{path}{name.rstrip('_')}",
                        "cannot be combined with w, which already includes class and truncation",
                    )
            return LatentSource(w=self._styles(fields.w, f"{path}w"))
        if fields.class_ is not None and fields.blend is not None:
            raise InvalidRequest(f"{path}blend", "give class or blend, not both")
        if class_ is not None and blend is not None:
            raise InvalidRequest("blend", "give class or blend, not both")
        z = None if fields.z is None else self._latent(fields.z, f"{path}z")
        overrides = fields.class_ is not None or fields.blend is not None
        class_path = path if overrides else ""
        class_value = fields.class_ if overrides else class_
        blend_value = fields.blend if overrides else blend
        if blend_value is not None:
            classes: ClassWeights | None = self.blend(blend_value, f"{class_path}blend")
        else:
            draw_seed = number if fields.seed is None else fields.seed
            classes = self.classes(class_value, f"{class_path}class", draw_seed)
        if fields.truncation is not None:
            limit = self.truncation(fields.truncation, f"{path}truncation")
        else:
            limit = self.truncation(truncation, "truncation")
        return LatentSource(fields.seed, z, classes=classes, truncation=limit)

    def classes(self, value: ClassValue | None, field: str, seed: int) -> ClassWeights | None:
        """Return the class of `seed`: the given one, one drawn by weights, or by default the seed
        modulo the number of classes. None for a model without classes.
        """
        if value is None:
            count = len(self._manifest.classes)
            return {seed % count: 1.0} if count else None
        if isinstance(value, Mapping):
            return {draw_class(self.weights(value, field), seed): 1.0}
        return {self.class_index(value, field): 1.0}

    def blend(self, value: WeightsValue, field: str) -> ClassWeights:
        """Return weights of classes that add up to 1."""
        weights = self.weights(value, field)
        if len(weights) > 1 and not can_blend(self._manifest):
            raise InvalidRequest(field, cannot_blend(self._manifest))
        total = math.fsum(weights.values())
        return {index: weight / total for index, weight in weights.items()}

    def weights(self, value: WeightsValue, field: str) -> dict[int, float]:
        """Return the positive weights of classes by index."""
        names = self.class_names(field)
        weights: dict[int, float] = {}
        for name, weight in value.items():
            if not 0 <= weight < math.inf:
                raise InvalidRequest(field, f"expected weights of at least 0, got {name}={weight}")
            index = self.class_index(index_or_name(name, names), field)
            if index in weights:
                raise InvalidRequest(field, f"{names[index]} is given twice")
            if weight > 0:
                weights[index] = weight
        if not weights:
            raise InvalidRequest(field, "at least one weight must be greater than 0")
        return weights

    def class_names(self, field: str) -> Sequence[str]:
        """Return the model's classes."""
        if not self._manifest.classes:
            raise InvalidRequest(field, f"{self._manifest.name} is not class-conditional")
        return self._manifest.classes

    def class_index(self, selector: ClassSelector, field: str) -> int:
        """Return the index of a class."""
        names = self.class_names(field)
        if isinstance(selector, int):
            if selector >= len(names):
                raise InvalidRequest(
                    field, f"expected an index from 0 to {len(names) - 1}, got {selector}"
                )
            return selector
        if selector not in names:
            shown = ", ".join(names[:_MAX_SHOWN_NAMES])
            shown += ", …" if len(names) > _MAX_SHOWN_NAMES else ""
            raise InvalidRequest(field, f"unknown class {selector[:50]!r}; available: {shown}")
        return names.index(selector)

    def truncation(self, value: float | None, field: str) -> float | None:
        """Return the truncation, or the model's default; None if the model does not truncate."""
        latent = self._manifest.latent
        truncation = latent.truncation if latent else None
        if value is None:
            return None if truncation is None else truncation.default
        if truncation is None:
            raise InvalidRequest(field, f"{self._manifest.name} does not support truncation")
        if not truncation.minimum <= value <= truncation.maximum:
            raise InvalidRequest(
                field,
                f"expected {exact(truncation.minimum)} to {exact(truncation.maximum)}, got "
                f"{exact(value)}",
            )
        return value

    def transform(self, value: TransformValue | None, field: str) -> Matrix | None:
        """Return the transform matrix; None if none is given."""
        if value is None:
            return None
        if not self._manifest.takes_transform:
            raise InvalidRequest(
                field, f"{self._manifest.name} does not support transforms; StyleGAN3 models do"
            )
        try:
            return (
                motion_transform(*value) if isinstance(value, MotionValue) else as_transform(value)
            )
        except ValueError as error:
            raise InvalidRequest(field, str(error)) from error

    def _latent(self, value: FloatsValue, field: str) -> Floats:
        try:
            return as_z(_floats(value), self._manifest)
        except ValueError as error:
            raise InvalidRequest(field, str(error)) from error

    def _styles(self, value: FloatsValue, field: str) -> Floats:
        style_space(self._manifest, "set")
        try:
            return as_w(_floats(value), self._manifest)
        except ValueError as error:
            raise InvalidRequest(field, str(error)) from error


def index_or_name(text: str, names: Collection[str]) -> str | int:
    """Read text as one of `names`, otherwise as an index if it is decimal, otherwise as a name."""
    is_index = text.isascii() and text.isdigit() and len(text) <= _MAX_INDEX_DIGITS
    return int(text) if is_index and text not in names else text


def layer_weights(
    layers: LayersValue,
    space: StyleSpace,
    model: str,
    field: str,
) -> dict[int, float]:
    """Return the weights of layers by index, sorted. The last weight of a layer counts."""
    groups: Mapping[str, Sequence[int]] = {str(group): at for group, at in space.groups.items()}
    selected: Mapping[LayerSelector, float]
    if isinstance(layers, Mapping):
        selected = {index_or_name(key, groups): weight for key, weight in layers.items()}
    else:
        listed = [layers] if isinstance(layers, str | int) else layers
        selected = dict.fromkeys(listed, 1.0)
    weights: dict[int, float] = {}
    for selector, weight in selected.items():
        if isinstance(selector, int):
            if selector >= len(space.layers):
                last = len(space.layers) - 1
                raise InvalidRequest(field, f"expected an index from 0 to {last}, got {selector}")
            weights[selector] = weight
        elif selector in groups:
            weights |= dict.fromkeys(groups[selector], weight)
        else:
            available = ", ".join(groups)
            raise InvalidRequest(
                field,
                f"{model} has no layers {selector[:50]!r}; available: {available}, and indices "
                f"from 0 to {len(space.layers) - 1}",
            )
    return {layer: weights[layer] for layer in sorted(weights)}


def no_directions(manifest: Manifest) -> str:
    return f"{manifest.name} has no directions: `ganymede directions {manifest.name}` finds some"


def direction_amounts(
    manifest: Manifest, directions: Mapping[str, float | Sequence[float]]
) -> dict[str, float | tuple[float, ...]]:
    """Return the amount or the steps of each direction. Raises InvalidRequest."""
    if manifest.directions is None:
        raise InvalidRequest("model", no_directions(manifest))
    if not directions:
        raise InvalidRequest("directions", "expected at least one direction")
    known = [item.name for item in manifest.directions.items]
    amounts: dict[str, float | tuple[float, ...]] = {}
    for name, value in directions.items():
        if name not in known:
            shown = ", ".join(known[:_MAX_SHOWN_NAMES])
            shown += ", …" if len(known) > _MAX_SHOWN_NAMES else ""
            raise InvalidRequest(
                "directions",
                f"{manifest.name} has no direction {name[:50]!r}; available: {shown}",
            )
        steps = tuple(map(float, value)) if isinstance(value, Sequence) else (float(value),)
        if not steps:
            raise InvalidRequest(f"directions.{name}", "expected at least one step")
        for step in steps:
            if not -MAX_AMOUNT <= step <= MAX_AMOUNT:
                raise InvalidRequest(
                    f"directions.{name}",
                    f"expected {exact(-MAX_AMOUNT)} to {exact(MAX_AMOUNT)} standard deviations, "
                    f"got {exact(step)}",
                )
        amounts[name] = steps if isinstance(value, Sequence) else steps[0]
    return amounts


def style_space(manifest: Manifest, verb: str) -> StyleSpace:
    if (space := manifest.styles) is None:
        raise InvalidRequest(
            "model",
            f"{manifest.name} has no styles to {verb}: its generator maps a latent to an image in "
            "one step. Models with styles list `styles` in /v1/models",
        )
    return space


def cannot_blend(manifest: Manifest) -> str:
    return f"{manifest.name} cannot blend classes: its graph takes a class index"


def _floats(value: FloatsValue) -> Floats:
    """Return finite float32 values. Raises ValueError."""
    if isinstance(value, str):
        values = decode_floats(value)
    else:
        lengths = {len(row) for row in value if isinstance(row, list)}
        if len(lengths) > 1:
            raise ValueError("the rows have different lengths")
        with np.errstate(over="ignore"):
            values = np.asarray(value, np.float32)
    if not np.isfinite(values).all():
        raise ValueError("expected finite float32 values")
    return values
