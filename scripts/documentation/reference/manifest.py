"""The reference of the manifest `model.json`."""

from pydantic import BaseModel

from scripts.documentation.reference.schemas import (
    field_comments,
    fields_table,
    nested_models,
    summary,
)
from service.runtime.models.manifest import Manifest

_TITLE = """# The manifest

Generated from the code: the schema of `model.json` in a [model folder](../model-folder.md). Unknown
keys are refused.

"""


def manifest_page() -> str:
    """Return the page with the manifest and every object in it."""
    definitions = Manifest.model_json_schema()
    parts = definitions.pop("$defs")
    text = _TITLE
    for model in _models(Manifest):
        schema = definitions if model is Manifest else parts[model.__name__]
        text += f"## {model.__name__}\n\n{summary(model)}\n\n"
        text += fields_table(schema, field_comments(model), _link)
    return text


def _models(first: type[BaseModel]) -> list[type[BaseModel]]:
    """Return a model and all that it contains, in the order of their first use."""
    found = [first]
    for model in found:
        for field in model.model_fields.values():
            found += [each for each in nested_models(field.annotation) if each not in found]
    return found


def _link(name: str) -> str:
    return f"[{name}](#{name.lower()})"
