"""Turns pydantic's validation errors into messages about the fields of the request.

For a field of a union type, pydantic reports one error for each alternative and puts the
alternative into the path: a `class` of null gives `class.constrained-int: Input should be a valid
integer`. Clients can interpret `class`, but not `constrained-int`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# Longer names are shortened: the name of an unknown field can be any text.
_MAX_NAME_LENGTH = 200
# Replacements for messages of pydantic that name Python types.
_MESSAGES = {
    "model_attributes_type": "Input should be an object",
    "model_type": "Input should be an object",
    "dict_type": "Input should be an object",
}
Path = tuple[str, ...]


def describe_field_errors(errors: Sequence[Mapping[str, Any]], body: Any) -> list[dict[str, str]]:
    """Return `field` and `message` for each invalid field, from pydantic's errors for `body`.

    Of the alternatives of a union, only those that match the input most deeply are reported.
    """
    messages_by_path: dict[Path, list[str]] = {}
    union_paths: set[Path] = set()
    for error in errors:
        path, is_union = _field_path(error, body)
        message = _MESSAGES.get(error["type"], str(error["msg"]))
        messages = messages_by_path.setdefault(path, [])
        if message not in messages:
            messages.append(message)
        if is_union:
            union_paths.add(path)
    return [
        {"field": ".".join(path)[:_MAX_NAME_LENGTH] or "body", "message": "; or: ".join(messages)}
        for path, messages in messages_by_path.items()
        if not (path in union_paths and any(_is_below(other, path) for other in messages_by_path))
    ]


def is_unparsed_body(error: Mapping[str, Any]) -> bool:
    """True if the body was not parsed because its media type is not JSON."""
    return tuple(error["loc"]) == ("body",) and isinstance(error.get("input"), bytes)


def _field_path(error: Mapping[str, Any], body: Any) -> tuple[Path, bool]:
    """Return the path of a field in the request, and whether it is a union alternative."""
    # The first part says where the field is: body, query, path or header.
    location, *parts = error["loc"]
    if location != "body":
        return tuple(map(str, parts)), False
    path: list[str] = []
    value, is_union = body, False
    for i, part in enumerate(parts):
        if _contains(value, part):
            value, is_union = value[part], False
        elif i + 1 < len(parts) or error["type"] != "missing":
            # Not in the input, so it is pydantic's name of an alternative.
            is_union = True
            continue
        path.append(str(part))
    return tuple(path), is_union


def _contains(value: Any, part: int | str) -> bool:
    if isinstance(value, list):
        return isinstance(part, int) and part < len(value)
    return isinstance(value, Mapping) and part in value


def _is_below(path: Path, parent: Path) -> bool:
    return len(path) > len(parent) and path[: len(parent)] == parent
