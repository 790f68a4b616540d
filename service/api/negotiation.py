"""Which form an answer takes: by the `format` field, else by `Accept`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from service.api.errors import Problem
from service.api.schemas import Format
from service.runtime.images import ImageFormat

Container = Literal["image", "json", "zip", "npy"]

_MEDIA_TYPES: dict[str, Format] = {
    "image/png": "png",
    "image/jpeg": "jpeg",
    "image/webp": "webp",
    "application/zip": "zip",
    "application/x-npy": "npy",
    "application/json": "json",
}


@dataclass(frozen=True)
class Form:
    """How the pictures are wrapped, and how each is encoded."""

    container: Container
    image: ImageFormat = ImageFormat.PNG


def negotiate(wanted: Format | None, accept: str | None, count: int) -> Form:
    """Choose the form for `count` pictures.

    One picture comes as itself when a picture is asked for; several come as JSON in that picture
    format. Raises Problem (406) when `accept` names nothing that can be had.
    """
    chosen = wanted or _from_accept(accept)
    match chosen:
        case "zip" | "npy" | "json":
            return Form(chosen)
        case _:
            return Form("image" if count == 1 else "json", ImageFormat(chosen))


def _from_accept(accept: str | None) -> Format:
    if not accept:
        return "json"
    ranges = sorted((_parse(part) for part in accept.split(",")), key=lambda r: -r[1])
    for media_range, quality in ranges:
        if quality <= 0:
            continue
        if media_range in ("*/*", "application/*"):
            return "json"
        if media_range == "image/*":
            return "png"
        if media_range in _MEDIA_TYPES:
            return _MEDIA_TYPES[media_range]
    raise Problem(
        406,
        "not-acceptable",
        "The answer cannot be had in that form",
        f"Accept is {accept[:200]!r}; there are: {', '.join(_MEDIA_TYPES)}",
    )


def _parse(part: str) -> tuple[str, float]:
    media_range, *parameters = (piece.strip().lower() for piece in part.split(";"))
    quality = 1.0
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                quality = float(parameter[2:])
            except ValueError:
                quality = 0.0
    return media_range, quality
