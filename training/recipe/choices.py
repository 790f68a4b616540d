"""Recipe sections that accept one of several kinds of options.

A kind is a subclass with a ``Literal`` field that names it, such as ``network: Literal["dcgan"]``.
Declaring the subclass registers it, so there is no list of kinds to edit. A field of a recipe is
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
    """Annotation of a field: its value is validated as the kind of options named by `key`.

    If the key is missing, the kind is `default`. Without a default, the key is required.
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
    """Return the registered subclasses of `base`, by the literal of their field `key`."""
    by_tag = {}
    for kind in _subclasses(base):
        annotation = kind.model_fields[key].annotation
        if get_origin(annotation) is Literal:
            (tag,) = get_args(annotation)
            by_tag[tag] = kind
    return dict(sorted(by_tag.items()))


def union_tags() -> frozenset[str]:
    """Return the names of all kinds of all fields declared with `OneOf`.

    Pydantic adds them to the locations of errors, where they look like keys of the recipe.
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
