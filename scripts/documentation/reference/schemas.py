"""Tables of the fields of pydantic models, from their JSON schema and their source.

A field is described by its `description`, or by the comment above its declaration.
"""

import ast
import inspect
import json
import re
import textwrap
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from scripts.documentation.reference.markdown import code, table

Schema = Mapping[str, Any]


def fields_table(schema: Schema, comments: Mapping[str, str], link: Callable[[str], str]) -> str:
    """Return the table of an object's properties.

    `comments` are descriptions of fields without one. `link` returns the text for a reference to
    another schema, given its name.
    """
    required = schema.get("required", ())
    rows = []
    for name, field in schema.get("properties", {}).items():
        if "default" in field:
            default = code(json.dumps(field["default"], ensure_ascii=False))
        else:
            default = "required" if name in required else ""
        meaning = field.get("description") or comments.get(name, "")
        rows.append((code(name), type_text(field, link), default, meaning))
    return table(("key", "type", "default", "meaning"), rows)


def type_text(schema: Schema, link: Callable[[str], str]) -> str:
    """Return the type of a value as text, with its bounds.

    `link` returns the text for a reference to another schema, given its name.
    """
    if "$ref" in schema:
        return link(schema["$ref"].rpartition("/")[2])
    for key in ("anyOf", "oneOf"):
        if key in schema:
            parts = [type_text(each, link) for each in schema[key]]
            return " or ".join(dict.fromkeys(parts))
    if "const" in schema:
        return code(json.dumps(schema["const"]))
    if "enum" in schema:
        return ", ".join(code(json.dumps(value)) for value in schema["enum"])
    return _typed(schema, link)


def _typed(schema: Schema, link: Callable[[str], str]) -> str:
    match schema.get("type"):
        case "array":
            if "prefixItems" in schema:
                parts = [type_text(each, link) for each in schema["prefixItems"]]
                return f"list of {', '.join(parts)}"
            items = _bounds(schema, "minItems", "maxItems")
            of = type_text(schema.get("items") or {}, link)
            return f"list of {of}" + (f" ({items.strip()} items)" if items else "")
        case "object":
            values = schema.get("additionalProperties")
            inner = type_text(values, link) if isinstance(values, dict) else "any"
            return f"object of {inner}"
        case "integer" | "number":
            return str(schema["type"]) + _bounds(schema, "minimum", "maximum")
        case "string":
            return f"string ({schema['format']})" if "format" in schema else "string"
        case None:
            return "any"
        case other:
            return str(other)


def _bounds(schema: Schema, least: str, most: str) -> str:
    parts = []
    if "exclusiveMinimum" in schema:
        parts.append(f"> {schema['exclusiveMinimum']:g}")
    if least in schema:
        parts.append(f"≥ {schema[least]:.10g}")
    if "exclusiveMaximum" in schema:
        parts.append(f"< {schema['exclusiveMaximum']:g}")
    if most in schema:
        parts.append(f"≤ {schema[most]:.10g}")
    return f" {', '.join(parts)}" if parts else ""


def field_comments(model: type[BaseModel]) -> dict[str, str]:
    """Return the comment above each field of a model and of its base classes."""
    comments: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if issubclass(base, BaseModel) and base is not BaseModel:
            comments |= _comments_in(base)
    return comments


def _comments_in(model: type[BaseModel]) -> dict[str, str]:
    source = textwrap.dedent(inspect.getsource(model))
    lines = source.splitlines()
    comments = {}
    for node in ast.parse(source).body[0].body:  # type: ignore[attr-defined]
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        found: list[str] = []
        number = node.lineno - 2
        while number >= 0 and (match := re.fullmatch(r"\s*# ?(.*)", lines[number])):
            found.insert(0, match[1])
            number -= 1
        if found:
            comments[node.target.id] = " ".join(found)
    return comments


def summary(model: type[BaseModel]) -> str:
    """Return the docstring of a model, in paragraphs."""
    return inspect.cleandoc(model.__doc__ or "")


def nested_models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models in an annotation, such as ``list[A] | B``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from nested_models(argument)
