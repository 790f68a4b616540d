"""What a request asks for, made definite: a seed, and a class where there are any, a picture."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from service.api.errors import invalid
from service.api.schemas import ClassWish, GenerateRequest, SampleClassesRequest
from service.runtime.latents import MAX_SEED
from service.runtime.model import Model


@dataclass(frozen=True)
class Wish:
    """The seeds of the pictures, and their class indices; None for a model without classes."""

    seeds: Sequence[int]
    classes: Sequence[int] | None


def to_generate(body: GenerateRequest, model: Model, maximum: int) -> Wish:
    """Read a request of `/v1/generate`. Raises Problem (422)."""
    seeds = _seeds(body, maximum)
    return Wish(seeds, _classes(body.class_, model, seeds))


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
    return Wish(_from(body.seed, total), classes)


def to_one(model: Model, seed: int, wanted: str | None) -> Wish:
    """Read the address of one picture. Raises Problem (422)."""
    wish: ClassWish | None = wanted
    if wanted is not None and wanted.isascii() and wanted.isdigit() and len(wanted) < 10:
        wish = wanted if wanted in model.manifest.classes else int(wanted)
    return Wish([seed], _classes(wish, model, [seed]))


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
    wish: ClassWish | list[ClassWish] | None, model: Model, seeds: Sequence[int]
) -> Sequence[int] | None:
    if wish is None:
        return model.classes_of(seeds)
    names = _class_names(model, "class")
    if not isinstance(wish, list):
        return [_class_index(wish, names, "class")] * len(seeds)
    if len(wish) != len(seeds):
        raise invalid("class", f"there are {len(wish)}, and {len(seeds)} pictures")
    return [_class_index(each, names, "class") for each in wish]


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
