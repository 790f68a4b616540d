"""The reference of the HTTP API, from its OpenAPI document with the default limits."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from scripts.documentation.reference.markdown import code, table
from scripts.documentation.reference.schemas import fields_table, type_text
from service.api.app import create_app
from service.runtime.scheduling.engine import Engine
from service.settings import Settings

_TITLE = """# HTTP API

Generated from the OpenAPI document of the service with its default settings. A running service has
its own document at `/openapi.json`, and shows it at `/docs`. [The HTTP API by
example](../http.md) explains how to use the routes.

"""


def http_page() -> str:
    """Return the page with every route and every schema."""
    document = openapi_document()
    schemas: Mapping[str, Any] = document["components"]["schemas"]
    text = _TITLE + document["info"]["description"] + "\n\n## Routes\n\n"
    text += table(("route", ""), _index(document))
    for path, method, operation in _operations(document):
        text += f"## {method.upper()} {path}\n\n{_route(operation)}"
    text += "## Schemas\n\n"
    for name, schema in schemas.items():
        text += f"### {name}\n\n"
        text += f"{schema.get('description', '')}\n\n"
        if "properties" in schema:
            text += fields_table(schema, {}, _link)
        else:
            text += f"{type_text(schema, _link)}\n\n"
    return text


def openapi_document() -> dict[str, Any]:
    """Return the OpenAPI document of a service with the default settings. Loads no model."""
    settings = Settings.model_construct()
    engine = Engine(Path("models"), provider="cpu", queue_pixels=settings.queue_pixels)
    return create_app(engine, settings).openapi()


def _operations(document: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield path, method, operation


def _index(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for path, method, operation in _operations(document):
        title = f"{method.upper()} {path}"
        yield f"[`{title}`](#{_anchor(title)})", operation.get("summary", "")


def _anchor(title: str) -> str:
    """Return the anchor of a heading, as the site makes it."""
    kept = re.sub(r"[^\w\s-]", "", title.lower())
    return re.sub(r"\s", "-", kept)


def _route(operation: Mapping[str, Any]) -> str:
    summary = operation.get("summary", "")
    description = operation.get("description", "")
    text = f"{summary}\n\n" if summary else ""
    text += f"{description}\n\n" if description and description != summary else ""
    if parameters := operation.get("parameters"):
        rows = [
            (
                code(each["name"]),
                each["in"],
                type_text(each.get("schema", {}), _link),
                "required" if each.get("required") else "",
                each.get("description", ""),
            )
            for each in parameters
        ]
        text += table(("parameter", "in", "type", "", "meaning"), rows)
    if body := operation.get("requestBody"):
        rows = [
            (code(kind), type_text(each.get("schema", {}), _link))
            for kind, each in body["content"].items()
        ]
        text += table(("body", "schema"), rows)
    rows = []
    for status, response in operation.get("responses", {}).items():
        content = response.get("content", {})
        kinds = ", ".join(f"{code(kind)} {_schema(each)}".strip() for kind, each in content.items())
        rows.append((code(status), response.get("description", ""), kinds))
    return text + table(("status", "", "content"), rows)


def _schema(content: Mapping[str, Any]) -> str:
    schema = content.get("schema", {})
    return type_text(schema, _link) if "$ref" in json.dumps(schema) else ""


def _link(name: str) -> str:
    return f"[{name}](#{name.lower()})"
