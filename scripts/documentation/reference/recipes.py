"""The reference of recipes: every key of every section, and the included recipes."""

import json
from typing import Annotated, Any, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from scripts.documentation.reference.markdown import code, table
from scripts.documentation.reference.schemas import (
    field_comments,
    fields_table,
    nested_models,
    summary,
)
from training.recipe.choices import OneOf, kinds
from training.recipe.loading import shipped_recipes
from training.recipe.schema import Recipe

_TITLE = """# Recipes

Generated from the code: the keys of a recipe, section by section. A recipe is a YAML file; the
command line overrides any key, as in `ganymede train dcgan-fashion train.images=20000`. An unknown
key is an error that names the nearest known one. [Training](../training.md) explains the most
important keys.

"""


def recipe_page() -> str:
    """Return the page with the schema of recipes and the list of included recipes."""
    text = _TITLE + "## Included recipes\n\n"
    rows = []
    for name, path in shipped_recipes().items():
        rows.append((code(name), yaml.safe_load(path.read_text())["summary"]))
    text += table(("recipe", "summary"), rows)
    text += "## The recipe\n\n" + _section(Recipe)
    for key, field in Recipe.model_fields.items():
        text += _sections_of(key, field, 2)
    return text


def _sections_of(key: str, field: FieldInfo, depth: int) -> str:
    """Return the sections for the models that the value of a key can be."""
    marks = "#" * min(depth, 4)
    choice = next((each for each in _metadata(field) if isinstance(each, OneOf)), None)
    text = ""
    if choice is not None:
        base = next(nested_models(field.annotation))
        options = kinds(base, choice.key)
        default = f", by default `{choice.default}`" if choice.default else ""
        text += f"{marks} {key}\n\n`{key}.{choice.key}` selects one of these{default}.\n\n"
        for tag, model in options.items():
            text += f"{marks}# {key}: {tag}\n\n" + _section(model)
            text += _nested(model, key, depth + 1)
        return text
    for model in dict.fromkeys(nested_models(field.annotation)):
        text += f"{marks} {key}\n\n" + _section(model) + _nested(model, key, depth)
    return text


def _nested(model: type[BaseModel], key: str, depth: int) -> str:
    fields = model.model_fields.items()
    return "".join(_sections_of(f"{key}.{name}", field, depth + 1) for name, field in fields)


def _metadata(field: FieldInfo) -> list[Any]:
    """Return the metadata of a field and of the annotations inside its type."""
    found = list(field.metadata)
    waiting = [field.annotation]
    while waiting:
        annotation = waiting.pop()
        if get_origin(annotation) is Annotated:
            found += annotation.__metadata__  # type: ignore[union-attr]
        waiting += get_args(annotation)
    return found


def _section(model: type[BaseModel]) -> str:
    # The schema of one model: its sections have tables of their own.
    schema = model.model_json_schema()
    properties = {}
    for name, field in schema.get("properties", {}).items():
        properties[name] = dict(field)
        info = model.model_fields[name]
        default = properties[name].get("default")
        if isinstance(default, dict) and any(nested_models(info.annotation)):
            properties[name]["default"] = "see below"
    text = fields_table(
        {**schema, "properties": properties}, field_comments(model), lambda _: "section"
    )
    text = text.replace(f"| {code(json.dumps('see below'))} |", "| below |")
    return f"{summary(model)}\n\n{text}"
