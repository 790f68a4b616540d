"""Parses the text syntax of job options (`A-B`, `NAME=WEIGHT,…`, `X,Y,W,H;…`) to typed values.

Used by the command line, and by the HTTP routes of jobs, where some fields are text, too. Only the
syntax is checked here; `service.runtime.requests` validates the values. Raises InvalidRequest.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

from service.runtime.ranking import Method, Selection
from service.runtime.request_fields import InvalidRequest, WeightsValue


def parse_seed_range(text: str) -> tuple[int, int]:
    """Read `A-B` as the first and the last seed."""
    match = re.fullmatch(r"(\d{1,12})-(\d{1,12})", text)
    if match is None:
        raise InvalidRequest("seeds", f"expected A-B, such as 0-999, got {text!r}")
    return int(match[1]), int(match[2])


def parse_classes(text: str, names: Sequence[str]) -> Sequence[str] | WeightsValue:
    """Read `balanced`, `NAME,NAME,…` or `NAME=WEIGHT,…`; `names` are the model's classes.

    A part that is the name of a class is a name, even with an equals sign in it.
    """
    if text == "balanced":
        return text
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if all(part in names or "=" not in part for part in parts):
        return parts
    weights: dict[str, float] = {}
    for part in parts:
        name, equals, number = part.rpartition("=")
        try:
            weight = float(number)
        except ValueError:
            equals = ""
        if not equals:
            raise InvalidRequest("classes", f"expected NAME=WEIGHT, got {part!r}")
        if name in weights:
            raise InvalidRequest("classes", f"{name} is given twice")
        weights[name] = weight
    return weights


def read_prompts(path: Path) -> list[str]:
    """Read a file with one prompt per line."""
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InvalidRequest("prompts", f"{path} cannot be read: {reason}") from error
    return text.removesuffix("\n").split("\n") if text else []


def parse_layers(text: str) -> list[str]:
    """Read layer groups and indices, separated by commas."""
    return [part.strip() for part in text.split(",")]


def parse_directions(text: str) -> dict[str, float]:
    """Read `NAME=AMOUNT,…`."""
    amounts: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = (each.strip() for each in part.partition("="))
        try:
            amount = float(number)
        except ValueError:
            raise InvalidRequest(
                "directions", f"expected NAME=AMOUNT, such as size=1.5, got {part[:50]!r}"
            ) from None
        if name in amounts:
            raise InvalidRequest("directions", f"{name} is given twice")
        amounts[name] = amount
    return amounts


def parse_size(text: str) -> tuple[int, int]:
    """Read `SIDE` or `WIDTHxHEIGHT` as width and height, in pixels."""
    match = re.fullmatch(r"(\d{1,6})(?:[x×](\d{1,6}))?", text)
    if match is None:
        raise InvalidRequest("resize", f"expected SIDE or WIDTHxHEIGHT in pixels, got {text!r}")
    width = int(match[1])
    return width, int(match[2] or width)


def parse_rank(text: str) -> Selection:
    """Read `SHARE` or `METHOD=SHARE`, such as `0.25` or `rejection=0.25`."""
    method, equals, number = text.rpartition("=")
    try:
        share = float(number)
    except ValueError:
        share = math.nan
    methods: dict[str, Method] = {"rank": "rank", "rejection": "rejection"}
    if not math.isfinite(share) or (equals and method not in methods):
        raise InvalidRequest(
            "rank", f"expected a share, such as 0.25 or rejection=0.25, got {text[:50]!r}"
        )
    return Selection(share, methods[method] if equals else "rank")


def parse_boxes(text: str) -> list[tuple[int, int, int, int]]:
    """Read `X,Y,WIDTH,HEIGHT`, separated by semicolons, in pixels."""
    boxes = []
    for part in text.split(";"):
        numbers = [number.strip() for number in part.split(",")]
        if len(numbers) != 4 or not all(re.fullmatch(r"\d{1,6}", number) for number in numbers):
            raise InvalidRequest(
                "boxes", f"expected X,Y,WIDTH,HEIGHT, separated by semicolons, got {part!r}"
            )
        x, y, width, height = (int(number) for number in numbers)
        boxes.append((x, y, width, height))
    return boxes
