"""Which form an answer takes: by the `format` field, else by `Accept`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from fastapi import Request

from service.api.problems import Problem
from service.api.schemas import AnimationFormat, Format
from service.runtime.images.encoding import ImageFormat

Container = Literal["image", "json", "zip", "npy"]

_MEDIA_TYPES: dict[str, Format] = {
    "image/png": "png",
    "image/jpeg": "jpeg",
    "image/webp": "webp",
    "application/zip": "zip",
    "application/x-npy": "npy",
    "application/json": "json",
}


# What a wildcard stands for, the first choice first.
_WILDCARDS = {
    "*/*": ("application/json", "image/png"),
    "application/*": ("application/json", "application/zip", "application/x-npy"),
    "image/*": ("image/png", "image/webp", "image/jpeg"),
}


_ANIMATIONS: dict[str, AnimationFormat] = {
    "image/webp": "webp",
    "image/gif": "gif",
    "image/png": "png",
    "image/apng": "png",
    "application/zip": "zip",
    "application/x-npy": "npy",
}
_ANIMATION_WILDCARDS = {
    "*/*": ("image/webp",),
    "image/*": ("image/webp", "image/gif", "image/png"),
    "application/*": ("application/zip", "application/x-npy"),
}
F = TypeVar("F", bound=str)


@dataclass(frozen=True)
class Form:
    """How the pictures are wrapped, and how each is encoded."""

    container: Container
    image: ImageFormat = ImageFormat.PNG


def accepted(request: Request) -> str | None:
    """Return the request's `Accept`, which is no parameter of a route.

    OpenAPI says it by the kinds of answers, and reading it as a parameter takes FastAPI as long as
    drawing a latent takes us.
    """
    return request.headers.get("accept")


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


def negotiate_animation(wanted: AnimationFormat | None, accept: str | None) -> AnimationFormat:
    """Choose the form of an animation. Raises Problem (406)."""
    return wanted or _picked(accept or "*/*", _ANIMATIONS, _ANIMATION_WILDCARDS)


def _from_accept(accept: str | None) -> Format:
    return _picked(accept, _MEDIA_TYPES, _WILDCARDS) if accept else "json"


def _picked(accept: str, media_types: Mapping[str, F], wildcards: Mapping[str, Sequence[str]]) -> F:
    """Return the form that `accept` likes best. Raises Problem (406)."""
    ranges = [_parse(part) for part in accept.split(",")]
    refused = {media_range for media_range, quality in ranges if not quality > 0}
    # The best quality first; at equal quality what is named before what a wildcard stands for.
    for media_range, _ in sorted(ranges, key=lambda r: (-r[1], "*" in r[0])):
        for media_type in wildcards.get(media_range, (media_range,)):
            if media_type in media_types and not {media_type, media_range} & refused:
                return media_types[media_type]
    raise Problem(
        406,
        "not-acceptable",
        "The answer cannot be had in that form",
        f"Accept is {accept[:200]!r}; there are: {', '.join(media_types)}",
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
            quality = quality if 0 <= quality <= 1 else 0.0
    return media_range, quality
