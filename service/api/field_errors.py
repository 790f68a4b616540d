"""What is wrong with a request, said of the fields that its sender knows.

Where a field may be one of several things, pydantic names each of them within the path, and says of
each why the value is not it: `class.constrained-int: Input should be a valid integer` of a class
that is null. Whoever sent the request knows no `constrained-int`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# Of a field's name, which may be anything where it is one that nobody knows.
_MOST_CHARACTERS = 200
# What pydantic says of Python's things, in JSON's.
_MESSAGES = {
    "model_attributes_type": "Input should be an object",
    "model_type": "Input should be an object",
    "dict_type": "Input should be an object",
}


def wrong_fields(errors: Sequence[Mapping[str, Any]], body: Any) -> list[dict[str, str]]:
    """Return `field` and `message` for each field that is wrong, from pydantic's errors of `body`.

    Of what a value might have been, only that counts in which it came furthest.
    """
    said: dict[tuple[str, ...], list[str]] = {}
    alternatives: set[tuple[str, ...]] = set()
    for error in errors:
        place, is_alternative = _place(error, body)
        message = _MESSAGES.get(error["type"], str(error["msg"]))
        messages = said.setdefault(place, [])
        if message not in messages:
            messages.append(message)
        if is_alternative:
            alternatives.add(place)
    return [
        {"field": ".".join(place)[:_MOST_CHARACTERS] or "body", "message": "; or: ".join(messages)}
        for place, messages in said.items()
        if not (place in alternatives and any(_is_below(other, place) for other in said))
    ]


def is_unread(error: Mapping[str, Any]) -> bool:
    """Whether `error` is of a body that was left as its bytes, since its type is not JSON's."""
    return tuple(error["loc"]) == ("body",) and isinstance(error.get("input"), bytes)


def _place(error: Mapping[str, Any], body: Any) -> tuple[tuple[str, ...], bool]:
    """Return the path of a field, and whether the error is of one of the things that it may be."""
    # The first part says where the field stands: body, query, path or header.
    where, *path = error["loc"]
    if where != "body":
        return tuple(map(str, path)), False
    place: list[str] = []
    value, is_alternative = body, False
    for i, part in enumerate(path):
        if _is_in(part, value):
            value, is_alternative = value[part], False
        elif i + 1 < len(path) or error["type"] != "missing":
            # Nothing that was sent, so the name of an alternative.
            is_alternative = True
            continue
        place.append(str(part))
    return tuple(place), is_alternative


def _is_in(part: int | str, value: Any) -> bool:
    if isinstance(value, list):
        return isinstance(part, int) and part < len(value)
    return isinstance(value, Mapping) and part in value


def _is_below(place: tuple[str, ...], other: tuple[str, ...]) -> bool:
    return len(place) > len(other) and place[: len(other)] == other
