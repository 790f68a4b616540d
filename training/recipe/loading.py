"""Loads recipes from YAML files, with overrides from the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from training.recipe.choices import union_tags
from training.recipe.errors import RecipeError
from training.recipe.options import nearest
from training.recipe.schema import Recipe

_FOLDER = Path(__file__).parents[1] / "recipes"
_DATA_SECTIONS = ("data", "source")
# The override ``from=…`` is short for this key.
_WEIGHTS = "fine_tune.weights"


def shipped_recipes() -> dict[str, Path]:
    """Return the files of the included recipes, by name."""
    return {path.stem: path for path in sorted(_FOLDER.glob("*.yaml"))}


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Load an included recipe by name, or any recipe by path, and apply ``section.key=value``.

    ``from=WEIGHTS`` sets the weights that training starts from.

    Raises RecipeError.
    """
    shipped = shipped_recipes()
    path = shipped.get(name, Path(name))
    if not path.is_file():
        raise RecipeError(f"no recipe {name!r}{nearest(name, shipped)}")
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"{path} is not a recipe: expected sections, got {type(values).__name__}")
    values.setdefault("name", path.stem)
    shipped_data = _data_locations(values)
    for override in overrides:
        _apply(values, override)
    other_data = _data_locations(values) != shipped_data
    if other_data:
        _forget_data(values, {override.partition("=")[0] for override in overrides})
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError(_one_line(error)) from error
    if other_data and not recipe.summary:
        return recipe.model_copy(update={"summary": _summary(recipe)})
    return recipe


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals:
        raise RecipeError(f"expected key=value, as in train.images=20000; got {override!r}")
    if key == "from":
        if not value:
            raise RecipeError("from= needs a run, a model or a checkpoint, as in from=runs/first")
        name, _, last = _WEIGHTS.partition(".")
        section = values.get(name) or {}
        if not isinstance(section, dict):
            raise RecipeError(f"from={value}: {name} is a value, not a section")
        values[name] = {**section, last: value}
        return
    *sections, last = key.split(".")
    section = values
    for name in sections:
        section = section.setdefault(name, {})
        if not isinstance(section, dict):
            raise RecipeError(f"{key}: {name} is a value, not a section")
    try:
        section[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise RecipeError(f"{key}: {value!r} is not a YAML value") from error


def _data_locations(values: Mapping[str, Any]) -> list[Any]:
    """Return which data the sections `data` and `source` name."""
    sections = [values.get(name) for name in _DATA_SECTIONS]
    return [
        (section.get("name"), section.get("path")) if isinstance(section, dict) else None
        for section in sections
    ]


def _forget_data(values: dict[str, Any], overridden: Set[str]) -> None:
    """Remove what the recipe's file says about its data, because overrides select other data.

    These are the data set's name, title and license, and the summary, the use and the license of
    the weights. Values in `overridden` are kept.
    """
    for name in _DATA_SECTIONS:
        section = values.get(name)
        if isinstance(section, dict) and overridden & {f"{name}.path", f"{name}.name"}:
            forgotten = ["title", "license"]
            if section.get("path") is not None:
                forgotten.append("name")
            for key in forgotten:
                if f"{name}.{key}" not in overridden:
                    section.pop(key, None)
    if "summary" not in overridden:
        values["summary"] = ""
    for key in ("license", "good_for"):
        if key not in overridden:
            values.pop(key, None)


def _summary(recipe: Recipe) -> str:
    sections = [recipe.source, recipe.data]
    titles = [section.dataset_title for section in sections if section is not None]
    return f"Trained on {' and '.join(dict.fromkeys(titles))}"


def _one_line(error: ValidationError) -> str:
    tags = union_tags()
    problems = []
    for problem in error.errors():
        # Pydantic adds the tags of unions to locations.
        location = ".".join(str(part) for part in problem["loc"] if part not in tags)
        message = problem["msg"].removeprefix("Value error, ")
        problems.append(f"{location}: {message}" if location else message)
    return "; ".join(problems)
