"""Validates the fields of requests and converts them to `LatentSource`, `StyleMixing` and others.

Every entry point uses this module: the native routes, OpenAI's and KServe's, the jobs and the
command line. It is independent of HTTP and command-line syntax. Invalid input raises InvalidRequest
with the name of the field; each entry point reports it in its own format.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from service.runtime.errors import UserError
from service.runtime.formatting import exact
from service.runtime.images.encoding import ImageFormat
from service.runtime.latent.interpolation import Interpolation, Path, Space
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
from service.runtime.latent.style_mixing import StyleMixing
from service.runtime.latent.transforms import Matrix, as_transform, motion_transform
from service.runtime.models.manifest import Manifest, StyleSpace

# A class by name or index; several with weights, by name or, as text, by index.
ClassSelector = str | int
WeightsValue = Mapping[str, float]
ClassValue = ClassSelector | WeightsValue
# A layer by index, or all layers of a group.
LayerSelector = str | int
# Floats in nested lists, or little-endian float32 in base64.
FloatsValue = str | Sequence[float] | Sequence[Sequence[float]]

MAX_RESIZED_SIDE = 16_384
_MAX_SHOWN_CLASSES = 20
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


def generate_sources(
    manifest: Manifest,
    *,
    max_images: int,
    n: int | None = None,
    seed: int | None = None,
    seeds: Sequence[int] | None = None,
    z: Sequence[FloatsValue] | None = None,
    w: Sequence[FloatsValue] | None = None,
    images: Sequence[SourceFields] | None = None,
    class_: ClassValue | Sequence[ClassSelector] | None = None,
    blend: WeightsValue | None = None,
    truncation: float | Sequence[float] | None = None,
    transform: TransformValue | None = None,
) -> list[LatentSource]:
    """Return one source per image: `n` consecutive seeds, or one source for each item of a list.

    The other fields apply to every image that does not override them. Raises InvalidRequest.
    """
    lists = {"seeds": seeds, "z": z, "w": w, "images": images}
    prefix, items = _listed_sources(n, seed, lists, max_images)
    classes = _per_image(class_, len(items), "class")
    truncations = _per_image(truncation, len(items), "truncation")
    parser = _SourceParser(manifest)
    default_transform = parser.transform(transform, "transform")
    sources = []
    for i, fields in enumerate(items):
        path = f"{prefix}.{i}." if prefix else ""
        source = parser.source(fields, path, i, classes[i], truncations[i], blend)
        own_transform = parser.transform(fields.transform, f"{path}transform")
        matrix = default_transform if own_transform is None else own_transform
        sources.append(source if matrix is None else replace(source, transform=matrix))
    return sources


def class_sources(
    manifest: Manifest,
    *,
    max_images: int,
    classes: Mapping[str, int] | None = None,
    per_class: int | None = None,
    blend: WeightsValue | None = None,
    n: int | None = None,
    seed: int | None = None,
    truncation: float | None = None,
) -> list[LatentSource]:
    """Return the sources of class-conditional sampling: counts of `classes`, `per_class` of every
    class, or `n` of a `blend`. Raises InvalidRequest.
    """
    parser = _SourceParser(manifest)
    names = parser.class_names("model")
    if sum(option is not None for option in (classes, per_class, blend)) != 1:
        raise InvalidRequest("classes", "give exactly one of classes, per_class and blend")
    if n is not None and blend is None:
        raise InvalidRequest("n", "only for a blend; classes and per_class imply the count")
    weights: list[ClassWeights]
    if blend is not None:
        total = n or 1
        _assert_at_most(total, max_images, "n")
        weights = [parser.blend(blend, "blend")] * total
    else:
        counts = classes or dict.fromkeys(names, per_class or 0)
        total = sum(counts.values())
        _assert_at_most(total, max_images, "classes")
        weights = [
            {parser.class_index(name, "classes"): 1.0}
            for name, count in counts.items()
            for _ in range(count)
        ]
    limit = parser.truncation(truncation, "truncation")
    return [
        LatentSource(each, classes=weights[i], truncation=limit)
        for i, each in enumerate(_consecutive_seeds(seed, total))
    ]


def style_mixing(
    manifest: Manifest,
    *,
    max_images: int,
    rows: Sequence[SourceFields],
    columns: Sequence[SourceFields],
    layers: LayerSelector | Sequence[LayerSelector] | Mapping[str, float],
    class_: ClassValue | None = None,
    truncation: float | None = None,
) -> StyleMixing:
    """Return the mix of every row with every column. Raises InvalidRequest."""
    space = _style_space(manifest, "mix")
    count = len(rows) * len(columns)
    if count > max_images:
        raise InvalidRequest(
            "rows", f"expected at most {max_images} images, got {count} (rows × columns)"
        )
    parser = _SourceParser(manifest)
    return StyleMixing(
        tuple(parser.sources(rows, "rows", class_, truncation)),
        tuple(parser.sources(columns, "columns", class_, truncation)),
        _layer_weights(layers, space, manifest.name, "layers"),
    )


def interpolation(
    manifest: Manifest,
    *,
    max_frames: int,
    sources: Sequence[SourceFields],
    frames: int,
    loop: bool,
    space: Space | None = None,
    path: Path | None = None,
    class_: ClassSelector | None = None,
    truncation: float | None = None,
) -> Interpolation:
    """Return a walk through `sources`. Raises InvalidRequest."""
    if frames > max_frames:
        raise InvalidRequest("frames", f"expected 2 to {max_frames}, got {frames}")
    if len(sources) > frames:
        raise InvalidRequest("sources", f"{len(sources)} sources do not fit into {frames} frames")
    keys = _SourceParser(manifest).sources(sources, "sources", class_, truncation)
    space = space or ("w" if manifest.styles else "z")
    if space == "w":
        _style_space(manifest, "interpolate")
    else:
        if any(key.w is not None for key in keys):
            raise InvalidRequest("space", "a source given as w has no z; use space w")
        classes = {tuple(sorted((key.classes or {}).items())) for key in keys}
        if len(classes) > 1 and not can_blend(manifest):
            raise InvalidRequest("sources", f"{_cannot_blend(manifest)}; use one class for all")
    path = path or ("spherical" if space == "z" else "linear")
    return Interpolation(tuple(keys), frames, loop=loop, space=space, path=path)


def image_source(
    manifest: Manifest, *, seed: int, class_: str | None, truncation: float | None
) -> LatentSource:
    """Return the source for an image URL, in which the class is text. Raises InvalidRequest."""
    selector = None if class_ is None else index_or_name(class_, manifest.classes)
    return _SourceParser(manifest).source(SourceFields(seed), "", 0, selector, truncation)


def truncation_value(manifest: Manifest, truncation: float | None) -> float | None:
    """Return the truncation, or the model's default. Raises InvalidRequest."""
    return _SourceParser(manifest).truncation(truncation, "truncation")


def direction_name(manifest: Manifest, direction: str | None) -> str | None:
    """Return the direction of an image-to-image model, by default its first; None if it has none.

    Raises InvalidRequest.
    """
    directions = manifest.input.directions if manifest.input else ()
    if direction is None:
        return directions[0] if directions else None
    if direction not in directions:
        known = f"available: {', '.join(directions)}" if directions else f"{manifest.name} has none"
        raise InvalidRequest("direction", f"unknown direction {direction[:50]!r}; {known}")
    return direction


def job_seeds(
    *, count: int | None, seeds: tuple[int, int] | None, seed: int | None
) -> tuple[int, int]:
    """Return the first seed and the number of images of a job, from `count` and `seed`, or from
    the range `seeds`, first to last inclusive. Raises InvalidRequest.
    """
    if seeds is not None:
        if count is not None or seed is not None:
            raise InvalidRequest("seeds", "cannot be combined with a count or a first seed")
        first, last = seeds
        if last < first:
            raise InvalidRequest("seeds", f"expected A-B with B at least A, got {first}-{last}")
        count = last - first + 1
    elif count is None:
        raise InvalidRequest("count", "missing: give the number of images, or a range of seeds")
    else:
        first = seed or 0
    if count < 1:
        raise InvalidRequest("count", f"expected at least 1, got {count}")
    if first < 0 or first + count - 1 > MAX_SEED:
        raise InvalidRequest(
            "seeds", f"expected seeds from 0 to {MAX_SEED:,}, got {count:,} seeds from {first}"
        )
    return first, count


def job_classes(
    manifest: Manifest,
    classes: Sequence[ClassSelector] | WeightsValue | None,
) -> tuple[tuple[int, ...] | None, dict[int, float] | None]:
    """Return the classes of a job: a list to cycle through, or weights to draw from; one is None.

    `balanced` cycles through all classes, unless the model has a class of that name. Raises
    InvalidRequest.
    """
    if classes is None:
        return None, None
    parser = _SourceParser(manifest)
    names = parser.class_names("classes")
    if isinstance(classes, Mapping):
        return None, parser.weights(classes, "classes")
    if isinstance(classes, str):
        if classes == "balanced" and classes not in names:
            return tuple(range(len(names))), None
        classes = [classes]
    if not classes:
        raise InvalidRequest("classes", "expected at least one class")
    selectors = [index_or_name(str(each), names) for each in classes]
    return tuple(parser.class_index(each, "classes") for each in selectors), None


def job_layers(manifest: Manifest, layers: Sequence[str] | None) -> dict[int, float] | None:
    """Return the layers that take the styles of a second source, each with weight 1.

    Raises InvalidRequest.
    """
    if layers is None:
        return None
    if (space := manifest.styles) is None:
        raise InvalidRequest("mix", f"{manifest.name} has no styles to mix")
    selectors = [index_or_name(layer, space.groups) for layer in layers]
    return _layer_weights(selectors, space, manifest.name, "mix")


def job_size(size: tuple[int, int] | None, image: ImageFormat) -> tuple[int, int] | None:
    """Return the width and height to resize to. Raises InvalidRequest."""
    if size is None:
        return None
    limit = min(MAX_RESIZED_SIDE, image.longest_side)
    if not all(1 <= side <= limit for side in size):
        raise InvalidRequest(
            "resize", f"expected sides of 1 to {limit:,} pixels, got {size[0]}x{size[1]}"
        )
    return size


def index_or_name(text: str, names: Collection[str]) -> str | int:
    """Read text as one of `names`, otherwise as an index if it is decimal, otherwise as a name."""
    is_index = text.isascii() and text.isdigit() and len(text) <= _MAX_INDEX_DIGITS
    return int(text) if is_index and text not in names else text


class _SourceParser:
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
            raise InvalidRequest(field, _cannot_blend(self._manifest))
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
            shown = ", ".join(names[:_MAX_SHOWN_CLASSES])
            shown += ", …" if len(names) > _MAX_SHOWN_CLASSES else ""
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
        _style_space(self._manifest, "set")
        try:
            return as_w(_floats(value), self._manifest)
        except ValueError as error:
            raise InvalidRequest(field, str(error)) from error


def _listed_sources(
    n: int | None, seed: int | None, lists: Mapping[str, Sequence[Any] | None], max_images: int
) -> tuple[str, list[SourceFields]]:
    """Return the source fields of each image, and the name of their field.

    The name is empty if the items of the field have no fields of their own.
    """
    options: dict[str, Any] = {"seed": seed, **lists}
    names = [name for name, value in options.items() if value is not None]
    if len(names) > 1:
        raise InvalidRequest(names[1], f"give {names[0]} or {names[1]}, not both")
    if names in ([], ["seed"]):
        count = n or 1
        _assert_at_most(count, max_images, "n")
        return "", [SourceFields(each) for each in _consecutive_seeds(seed, count)]
    (name,) = names
    values = options[name]
    if n is not None and n != len(values):
        raise InvalidRequest("n", f"is {n}, but {name} has {len(values)} items")
    if len(values) > max_images:
        raise InvalidRequest(name, f"expected 1 to {max_images} {name}, got {len(values)}")
    match name:
        case "images":
            return name, list(values)
        case "seeds":
            return "", [SourceFields(value) for value in values]
        case "z":
            return "", [SourceFields(z=value) for value in values]
        case _:
            return "", [SourceFields(w=value) for value in values]


def _per_image(value: Any, count: int, field: str) -> Sequence[Any]:
    """Return `value` if it is a list of `count` items; repeat any other value `count` times.

    Raises InvalidRequest for a list of another length.
    """
    if not isinstance(value, list):
        return [value] * count
    if len(value) != count:
        raise InvalidRequest(field, f"has {len(value)} items for {count} images")
    return value


def _assert_at_most(count: int, max_images: int, field: str) -> None:
    if count > max_images:
        raise InvalidRequest(field, f"expected at most {max_images} images, got {count}")


def _consecutive_seeds(first: int | None, count: int) -> Sequence[int]:
    """Return `count` consecutive seeds, starting at `first`, or at a random seed if it is None."""
    if first is None:
        first = secrets.randbelow(MAX_SEED - count + 2)
    last = first + count - 1
    if last > MAX_SEED:
        raise InvalidRequest("seed", f"the last seed would be {last}, greater than {MAX_SEED}")
    return range(first, first + count)


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


def _layer_weights(
    layers: LayerSelector | Sequence[LayerSelector] | Mapping[str, float],
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


def _style_space(manifest: Manifest, verb: str) -> StyleSpace:
    if (space := manifest.styles) is None:
        raise InvalidRequest(
            "model",
            f"{manifest.name} has no styles to {verb}: its generator maps a latent to an image in "
            "one step. Models with styles list `styles` in /v1/models",
        )
    return space


def _cannot_blend(manifest: Manifest) -> str:
    return f"{manifest.name} cannot blend classes: its graph takes a class index"
