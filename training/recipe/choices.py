"""Recipe sections that hold one of several kinds of options.

A kind is a subclass with a ``Literal`` field that names it, such as ``network: Literal["dcgan"]``.
Declaring the subclass registers it: no list of kinds has to be edited. A field of a recipe is
declared as ``Annotated[Base, OneOf("network")]`` and accepts every registered subclass of `Base`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from training.recipe.options import Options

AnyOptions = TypeVar("AnyOptions", bound=Options)

_tags: set[str] = set()


@dataclass(frozen=True)
class OneOf:
    """Validates a field as the kind of options that the value of `key` names.

    Without that key the kind is `default`; with neither, the key is required.
    """

    key: str
    default: str | None = None

    def __get_pydantic_core_schema__(
        self, base: type[Options], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        choices = kinds(base, self.key)
        _tags.update(choices)
        union = core_schema.tagged_union_schema(
            {tag: handler.generate_schema(kind) for tag, kind in choices.items()},
            discriminator=self.key,
        )
        if self.default is None:
            return union
        return core_schema.no_info_before_validator_function(self._with_default, union)

    def _with_default(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {self.key: self.default, **value}
        return value


def kinds(base: type[AnyOptions], key: str) -> dict[str, type[AnyOptions]]:
    """Return the subclasses of `base` whose field `key` is one literal, by that literal."""
    found = {}
    for kind in _subclasses(base):
        annotation = kind.model_fields[key].annotation
        if get_origin(annotation) is Literal:
            (tag,) = get_args(annotation)
            found[tag] = kind
    return dict(sorted(found.items()))


def union_tags() -> frozenset[str]:
    """Return the names of all kinds of all fields declared with `OneOf`.

    Pydantic puts them into the location of an error, where they look like keys of the recipe.
    """
    return frozenset(_tags)


def import_modules(package: str) -> None:
    """Import every module of a package, so that the kinds declared there are registered."""
    paths = importlib.import_module(package).__path__
    for module in pkgutil.iter_modules(paths, f"{package}."):
        importlib.import_module(module.name)


def _subclasses(base: type[AnyOptions]) -> Iterator[type[AnyOptions]]:
    for subclass in base.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)
