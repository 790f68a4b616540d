"""What a request asks for, made definite: seeds, classes, truncations and layers."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from service.api.errors import invalid
from service.api.schemas import (
    ClassWish,
    GenerateRequest,
    LayerWish,
    MixStylesRequest,
    SampleClassesRequest,
)
from service.runtime.latents import MAX_SEED
from service.runtime.manifest import StyleSpace
from service.runtime.model import Model


@dataclass(frozen=True)
class Wish:
    """The seeds of the pictures, with class indices and truncations where the model has them."""

    seeds: Sequence[int]
    classes: Sequence[int] | None
    truncations: Sequence[float] | None


class Source(NamedTuple):
    """What a style comes from: a seed, and a class index where the model has classes."""

    seed: int
    class_index: int | None


@dataclass(frozen=True)
class MixWish:
    """The sources of a mix, the layers in which columns take over, and the truncation of all."""

    rows: Sequence[Source]
    columns: Sequence[Source]
    layers: Sequence[int]
    truncation: float | None


def to_generate(body: GenerateRequest, model: Model, maximum: int) -> Wish:
    """Read a request of `/v1/generate`. Raises Problem (422)."""
    seeds = _seeds(body, maximum)
    return Wish(
        seeds, _classes(body.class_, model, seeds), _truncations(body.truncation, model, seeds)
    )


def to_sample_classes(body: SampleClassesRequest, model: Model, maximum: int) -> Wish:
    """Read a request of `/v1/sample-classes`. Raises Problem (422)."""
    names = _class_names(model, "model")
    if (body.classes is None) == (body.per_class is None):
        raise invalid("classes", "give classes or per_class")
    counts = body.classes or dict.fromkeys(names, body.per_class or 0)
    total = sum(counts.values())
    if total > maximum:
        raise invalid("classes", f"expected at most {maximum} pictures, got {total}")
    classes = [
        _class_index(name, names, "classes") for name, count in counts.items() for _ in range(count)
    ]
    seeds = _from(body.seed, total)
    return Wish(seeds, classes, _truncations(body.truncation, model, seeds))


def to_mix_styles(body: MixStylesRequest, model: Model, maximum: int) -> MixWish:
    """Read a request of `/v1/mix-styles`. Raises Problem (422)."""
    name = model.manifest.name
    if (space := model.manifest.styles) is None:
        raise invalid(
            "model",
            f"{name} has no styles to mix: it goes from the latent to the picture in one step. "
            "Models that can be mixed show `styles` in /v1/models",
        )
    if (count := len(body.rows) * len(body.columns)) > maximum:
        raise invalid("rows", f"expected at most {maximum} pictures, rows × columns are {count}")

    def sources(seeds: Sequence[int], own: list[ClassWish] | None, field: str) -> list[Source]:
        if own is None:
            classes = _classes(body.class_, model, seeds)
        else:
            classes = _classes(own, model, seeds, field)
        if classes is None:
            return [Source(seed, None) for seed in seeds]
        return [Source(*each) for each in zip(seeds, classes, strict=True)]

    layers = body.layers if isinstance(body.layers, list) else [body.layers]
    truncations = _truncations(body.truncation, model, body.rows)
    return MixWish(
        rows=sources(body.rows, body.row_classes, "row_classes"),
        columns=sources(body.columns, body.column_classes, "column_classes"),
        layers=_layers(layers, space, name),
        truncation=truncations[0] if truncations else None,
    )


def to_one(model: Model, seed: int, wanted: str | None, truncation: float | None) -> Wish:
    """Read the address of one picture. Raises Problem (422)."""
    wish: ClassWish | None = wanted
    if wanted is not None and wanted.isascii() and wanted.isdigit() and len(wanted) < 10:
        wish = wanted if wanted in model.manifest.classes else int(wanted)
    return Wish([seed], _classes(wish, model, [seed]), _truncations(truncation, model, [seed]))


def _seeds(body: GenerateRequest, maximum: int) -> Sequence[int]:
    if body.seeds is not None:
        if body.seed is not None:
            raise invalid("seeds", "give seed or seeds, not both")
        if body.n is not None and body.n != len(body.seeds):
            raise invalid("n", f"is {body.n}, and there are {len(body.seeds)} seeds")
        if len(body.seeds) > maximum:
            raise invalid("seeds", f"expected 1 to {maximum} seeds, got {len(body.seeds)}")
        return body.seeds
    n = body.n or 1
    if n > maximum:
        raise invalid("n", f"expected 1 to {maximum}, got {n}")
    return _from(body.seed, n)


def _from(first: int | None, count: int) -> Sequence[int]:
    """Return `count` seeds in a row, from `first` or from anywhere."""
    if first is None:
        first = secrets.randbelow(MAX_SEED - count + 2)
    if first + count - 1 > MAX_SEED:
        raise invalid("seed", f"the last seed would be {first + count - 1}, beyond {MAX_SEED}")
    return range(first, first + count)


def _classes(
    wish: ClassWish | list[ClassWish] | None,
    model: Model,
    seeds: Sequence[int],
    field: str = "class",
) -> Sequence[int] | None:
    if wish is None:
        return model.classes_of(seeds)
    names = _class_names(model, field)
    if not isinstance(wish, list):
        return [_class_index(wish, names, field)] * len(seeds)
    _assert_one_each(wish, seeds, field)
    return [_class_index(each, names, field) for each in wish]


def _truncations(
    wish: float | list[float] | None, model: Model, seeds: Sequence[int]
) -> Sequence[float] | None:
    latent = model.manifest.latent
    truncation = latent.truncation if latent else None
    if wish is None:
        return model.truncations_of(seeds)
    if truncation is None:
        raise invalid("truncation", f"{model.manifest.name} does not truncate")
    if not isinstance(wish, list):
        wish = [wish] * len(seeds)
    _assert_one_each(wish, seeds, "truncation")
    for each in wish:
        if not truncation.minimum <= each <= truncation.maximum:
            raise invalid(
                "truncation",
                f"expected {truncation.minimum:g} to {truncation.maximum:g}, got {each:g}",
            )
    return wish


def _layers(wish: Sequence[LayerWish], space: StyleSpace, name: str) -> list[int]:
    """Return the indices of the layers, each once and in order."""
    layers: set[int] = set()
    for each in wish:
        if isinstance(each, int):
            if each >= len(space.layers):
                last = len(space.layers) - 1
                raise invalid("layers", f"expected an index from 0 to {last}, got {each}")
            layers.add(each)
        elif each in space.groups:
            layers.update(space.groups[each])
        else:
            there = ", ".join(space.groups)
            raise invalid("layers", f"{name} has no {each} layers; there are: {there}")
    return sorted(layers)


def _assert_one_each(wish: Sequence[object], seeds: Sequence[int], field: str) -> None:
    if len(wish) != len(seeds):
        raise invalid(field, f"there are {len(wish)}, and {len(seeds)} seeds")


def _class_names(model: Model, field: str) -> Sequence[str]:
    if not model.manifest.classes:
        raise invalid(field, f"{model.manifest.name} is not class-conditional")
    return model.manifest.classes


def _class_index(wish: ClassWish, names: Sequence[str], field: str) -> int:
    if isinstance(wish, int):
        if wish >= len(names):
            raise invalid(field, f"expected an index from 0 to {len(names) - 1}, got {wish}")
        return wish
    if wish not in names:
        shown = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
        raise invalid(field, f"no class {wish[:50]!r}; there are: {shown}")
    return names.index(wish)
