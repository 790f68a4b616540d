"""What a request asks for, made definite: the sources of the pictures, and the layers of a mix."""

from __future__ import annotations

import math
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from service.api.problems import invalid
from service.api.schemas import (
    ClassSelector,
    ClassWeightsField,
    GenerateRequest,
    InterpolateRequest,
    LatentField,
    LayerSelector,
    MixStylesRequest,
    Motion,
    SampleClassesRequest,
    SourceOrSeed,
    SourceRequest,
    StylesField,
    TransformField,
)
from service.runtime.latent.interpolation import Interpolation
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
from service.runtime.models.manifest import StyleSpace
from service.runtime.models.model import Model


def to_generate(body: GenerateRequest, model: Model, maximum: int) -> list[LatentSource]:
    """Read a request of `/v1/generate`. Raises Problem (422)."""
    reader = _Reader(model)
    wishes = _listed(body, maximum)
    count = len(wishes)
    classes = _each(body.class_, count, "class")
    truncations = _each(body.truncation, count, "truncation")
    moved = reader.transform(body.transform, "transform")
    sources = []
    for i, (place, wish) in enumerate(wishes):
        source = reader.source(wish, place, i, classes[i], truncations[i], body.blend)
        own = reader.transform(wish.transform, f"{place}transform")
        transform = moved if own is None else own
        sources.append(source if transform is None else replace(source, transform=transform))
    return sources


def to_sample_classes(body: SampleClassesRequest, model: Model, maximum: int) -> list[LatentSource]:
    """Read a request of `/v1/sample-classes`. Raises Problem (422)."""
    reader = _Reader(model)
    names = reader.class_names("model")
    if sum(wish is not None for wish in (body.classes, body.per_class, body.blend)) != 1:
        raise invalid("classes", "give one of classes, per_class and blend")
    if body.n is not None and body.blend is None:
        raise invalid("n", "goes with blend; classes and per_class say how many of each")
    classes: list[ClassWeights]
    if body.blend is not None:
        total = body.n or 1
        _assert_at_most(total, maximum, "n")
        classes = [reader.blended(body.blend, "blend")] * total
    else:
        counts = body.classes or dict.fromkeys(names, body.per_class or 0)
        total = sum(counts.values())
        _assert_at_most(total, maximum, "classes")
        classes = [
            {reader.class_index(name, "classes"): 1.0}
            for name, count in counts.items()
            for _ in range(count)
        ]
    truncation = reader.truncation(body.truncation, "truncation")
    return [
        LatentSource(seed, classes=classes[i], truncation=truncation)
        for i, seed in enumerate(_from(body.seed, total))
    ]


def to_mix_styles(body: MixStylesRequest, model: Model, maximum: int) -> StyleMixing:
    """Read a request of `/v1/mix-styles`. Raises Problem (422)."""
    space = _style_space(model, "mix")
    count = len(body.rows) * len(body.columns)
    if count > maximum:
        raise invalid("rows", f"expected at most {maximum} pictures, rows × columns are {count}")
    reader = _Reader(model)
    rows, columns = (
        reader.sources(wishes, field, body.class_, body.truncation)
        for field, wishes in (("rows", body.rows), ("columns", body.columns))
    )
    layers = _layers(body.layers, space, model.manifest.name)
    return StyleMixing(tuple(rows), tuple(columns), layers)


def to_interpolate(body: InterpolateRequest, model: Model, maximum: int) -> Interpolation:
    """Read a request of `/v1/interpolate`. Raises Problem (422)."""
    if body.frames > maximum:
        raise invalid("frames", f"expected 2 to {maximum}, got {body.frames}")
    if len(body.sources) > body.frames:
        raise invalid("sources", f"{len(body.sources)} do not fit into {body.frames} frames")
    sources = _Reader(model).sources(body.sources, "sources", body.class_, body.truncation)
    space = body.space or ("w" if model.manifest.styles else "z")
    if space == "w":
        _style_space(model, "walk through")
    else:
        if any(source.w is not None for source in sources):
            raise invalid("space", "a w has no z: walk in w")
        classes = {tuple(sorted((source.classes or {}).items())) for source in sources}
        if len(classes) > 1 and not can_blend(model.manifest):
            raise invalid("sources", f"{_cannot_blend(model)}; take one class for all")
    path = body.path or ("spherical" if space == "z" else "linear")
    return Interpolation(tuple(sources), body.frames, loop=body.loop, space=space, path=path)


def to_one(model: Model, seed: int, wanted: str | None, truncation: float | None) -> LatentSource:
    """Read the address of one picture. Raises Problem (422)."""
    wish: ClassSelector | None = wanted
    if wanted is not None and wanted.isascii() and wanted.isdigit() and len(wanted) < 10:
        wish = wanted if wanted in model.manifest.classes else int(wanted)
    return _Reader(model).source(SourceRequest(seed=seed), "", 0, wish, truncation)


class _Reader:
    """Reads sources for one model. Everything raises Problem (422), naming the field."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._manifest = model.manifest

    def sources(
        self,
        wishes: Sequence[SourceOrSeed],
        field: str,
        class_: ClassSelector | ClassWeightsField | None,
        truncation: float | None,
    ) -> list[LatentSource]:
        """Return a source for each of `wishes`, the rest being as is said for all."""
        for i, wish in enumerate(wishes):
            if isinstance(wish, SourceRequest) and wish.transform is not None:
                raise invalid(f"{field}.{i}.transform", "goes with /v1/generate alone")
        # Looked at even where every source says something else.
        self.classes(class_, "class", 0)
        self.truncation(truncation, "truncation")
        return [
            self.source(
                SourceRequest(seed=wish) if isinstance(wish, int) else wish,
                f"{field}.{i}.",
                i,
                class_,
                truncation,
            )
            for i, wish in enumerate(wishes)
        ]

    def source(
        self,
        wish: SourceRequest,
        place: str,
        number: int,
        class_: ClassSelector | ClassWeightsField | None = None,
        truncation: float | None = None,
        blend: ClassWeightsField | None = None,
    ) -> LatentSource:
        """Return what `wish` means as picture `number`; `place` stands before its fields' names."""
        if sum(given is not None for given in (wish.seed, wish.z, wish.w)) != 1:
            raise invalid(place.rstrip(".") or "seed", "give one of seed, z and w")
        if wish.w is not None:
            for field in ("class_", "blend", "truncation"):
                if getattr(wish, field) is not None:
                    name = field.rstrip("_")
                    raise invalid(f"{place}{name}", "a w is past class and truncation already")
            return LatentSource(w=self._styles(wish.w, f"{place}w"))
        if wish.class_ is not None and wish.blend is not None:
            raise invalid(f"{place}blend", "give class or blend, not both")
        if class_ is not None and blend is not None:
            raise invalid("blend", "give class or blend, not both")
        z = None if wish.z is None else self._latent(wish.z, f"{place}z")
        own = wish.class_ is not None or wish.blend is not None
        drawn_by = number if wish.seed is None else wish.seed
        mixture = wish.blend if own else blend
        if mixture is not None:
            classes: ClassWeights | None = self.blended(mixture, f"{place if own else ''}blend")
        else:
            chosen = wish.class_ if own else class_
            classes = self.classes(chosen, f"{place if own else ''}class", drawn_by)
        if wish.truncation is not None:
            limit = self.truncation(wish.truncation, f"{place}truncation")
        else:
            limit = self.truncation(truncation, "truncation")
        return LatentSource(wish.seed, z, classes=classes, truncation=limit)

    def classes(
        self, wish: ClassSelector | ClassWeightsField | None, field: str, seed: int
    ) -> ClassWeights | None:
        """Return the one class of `seed`, drawn where `wish` are weights; None without classes."""
        if wish is None:
            default = self._model.classes_of([seed])
            return None if default is None else {default[0]: 1.0}
        if isinstance(wish, dict):
            return {draw_class(self._weights(wish, field), seed): 1.0}
        return {self.class_index(wish, field): 1.0}

    def blended(self, wish: ClassWeightsField, field: str) -> ClassWeights:
        """Return weights of classes that add up to 1."""
        weights = self._weights(wish, field)
        if len(weights) > 1 and not can_blend(self._manifest):
            raise invalid(field, _cannot_blend(self._model))
        total = math.fsum(weights.values())
        return {index: weight / total for index, weight in weights.items()}

    def class_names(self, field: str) -> Sequence[str]:
        """Return the model's classes."""
        if not self._manifest.classes:
            raise invalid(field, f"{self._manifest.name} is not class-conditional")
        return self._manifest.classes

    def class_index(self, wish: ClassSelector, field: str) -> int:
        """Return the index of a class."""
        names = self.class_names(field)
        if isinstance(wish, int):
            if wish >= len(names):
                raise invalid(field, f"expected an index from 0 to {len(names) - 1}, got {wish}")
            return wish
        if wish not in names:
            shown = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
            raise invalid(field, f"no class {wish[:50]!r}; there are: {shown}")
        return names.index(wish)

    def truncation(self, wish: float | None, field: str) -> float | None:
        """Return the truncation, or the model's default; None where it has none."""
        latent = self._manifest.latent
        truncation = latent.truncation if latent else None
        if wish is None:
            return None if truncation is None else truncation.default
        if truncation is None:
            raise invalid(field, f"{self._manifest.name} does not truncate")
        if not truncation.minimum <= wish <= truncation.maximum:
            raise invalid(
                field, f"expected {truncation.minimum:g} to {truncation.maximum:g}, got {wish:g}"
            )
        return wish

    def transform(self, wish: TransformField | None, field: str) -> Matrix | None:
        """Return the transform that is wished for; None where nothing is said."""
        if wish is None:
            return None
        if not self._manifest.takes_transform:
            raise invalid(field, f"{self._manifest.name} takes no transform: StyleGAN3 does")
        try:
            if isinstance(wish, Motion):
                return motion_transform(wish.translate, wish.rotate, wish.scale)
            return as_transform(wish)
        except ValueError as error:
            raise invalid(field, str(error)) from error

    def _weights(self, wish: ClassWeightsField, field: str) -> dict[int, float]:
        weights: dict[int, float] = {}
        for name, weight in wish.items():
            index = self.class_index(_index_or_name(name, self._manifest.classes), field)
            if index in weights:
                raise invalid(field, f"{self._manifest.classes[index]} is there twice")
            if weight > 0:
                weights[index] = weight
        if not weights:
            raise invalid(field, "one of the weights has to be more than 0")
        return weights

    def _latent(self, wish: LatentField, field: str) -> Floats:
        try:
            return as_z(_floats(wish), self._manifest)
        except ValueError as error:
            raise invalid(field, str(error)) from error

    def _styles(self, wish: StylesField, field: str) -> Floats:
        _style_space(self._model, "take")
        try:
            return as_w(_floats(wish), self._manifest)
        except ValueError as error:
            raise invalid(field, str(error)) from error


def _listed(body: GenerateRequest, maximum: int) -> list[tuple[str, SourceRequest]]:
    """Return the source of each picture, with the place of its fields in the request."""
    given = [
        name for name in ("seed", "seeds", "z", "w", "images") if getattr(body, name) is not None
    ]
    if len(given) > 1:
        raise invalid(given[1], f"give {given[0]} or {given[1]}, not both")
    if given in ([], ["seed"]):
        n = body.n or 1
        _assert_at_most(n, maximum, "n")
        # Here and below: read as what they are already; a second reading would find the same.
        return [("", SourceRequest.model_construct(seed=seed)) for seed in _from(body.seed, n)]
    (name,) = given
    values = getattr(body, name)
    if body.n is not None and body.n != len(values):
        raise invalid("n", f"is {body.n}, and there are {len(values)} {name}")
    if len(values) > maximum:
        raise invalid(name, f"expected 1 to {maximum} {name}, got {len(values)}")
    match name:
        case "images":
            return [(f"images.{i}.", wish) for i, wish in enumerate(values)]
        case "seeds":
            return [("", SourceRequest.model_construct(seed=seed)) for seed in values]
        case _:
            return [("", SourceRequest.model_construct(**{name: value})) for value in values]


def _each(wish: Any, count: int, field: str) -> Sequence[Any]:
    """Return what is wished for each of `count` pictures."""
    if not isinstance(wish, list):
        return [wish] * count
    if len(wish) != count:
        raise invalid(field, f"there are {len(wish)}, and {count} pictures")
    return wish


def _assert_at_most(count: int, maximum: int, field: str) -> None:
    if count > maximum:
        raise invalid(field, f"expected at most {maximum} pictures, got {count}")


def _from(first: int | None, count: int) -> Sequence[int]:
    """Return `count` seeds in a row, from `first` or from anywhere."""
    if first is None:
        first = secrets.randbelow(MAX_SEED - count + 2)
    if first + count - 1 > MAX_SEED:
        raise invalid("seed", f"the last seed would be {first + count - 1}, beyond {MAX_SEED}")
    return range(first, first + count)


def _floats(wish: StylesField) -> Floats:
    """Return finite float32 values. Raises ValueError."""
    if isinstance(wish, str):
        values = decode_floats(wish)
    else:
        rows = {len(row) for row in wish if isinstance(row, list)}
        if len(rows) > 1:
            raise ValueError("the rows differ in length")
        with np.errstate(over="ignore"):
            values = np.asarray(wish, np.float32)
    if not np.isfinite(values).all():
        raise ValueError("expected finite float32 values")
    return values


def _layers(
    wish: LayerSelector | list[LayerSelector] | dict[str, float], space: StyleSpace, name: str
) -> dict[int, float]:
    """Return the weights of layers by index, in order. What is named twice has its last weight."""
    weights: dict[int, float] = {}
    groups: Mapping[str, Sequence[int]] = {str(group): at for group, at in space.groups.items()}
    listed: Mapping[str | int, float]
    if isinstance(wish, dict):
        listed = {_index_or_name(key, groups): weight for key, weight in wish.items()}
    else:
        listed = dict.fromkeys(wish if isinstance(wish, list) else [wish], 1.0)
    for each, weight in listed.items():
        if isinstance(each, int):
            if each >= len(space.layers):
                last = len(space.layers) - 1
                raise invalid("layers", f"expected an index from 0 to {last}, got {each}")
            weights[each] = weight
        elif each in groups:
            weights |= dict.fromkeys(groups[each], weight)
        else:
            there = ", ".join(groups)
            raise invalid("layers", f"{name} has no {str(each)[:50]} layers; there are: {there}")
    return {layer: weights[layer] for layer in sorted(weights)}


def _index_or_name(text: str, names: Collection[str]) -> ClassSelector:
    """Read a key of a JSON object, which is text, as a name or else an index."""
    if text not in names and text.isascii() and text.isdigit() and len(text) < 10:
        return int(text)
    return text


def _style_space(model: Model, verb: str) -> StyleSpace:
    if (space := model.manifest.styles) is None:
        raise invalid(
            "model",
            f"{model.manifest.name} has no styles to {verb}: it goes from the latent to the "
            "picture in one step. Models that have them show `styles` in /v1/models",
        )
    return space


def _cannot_blend(model: Model) -> str:
    return f"{model.manifest.name} cannot blend classes: its graph takes one by its index"
