"""Chooses the format of a response: by the `format` field, otherwise by the Accept header.

Also decides whether its images get Content Credentials.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from fastapi import Request

from service.api.middleware.request_headers import request_headers
from service.api.problems import Problem, invalid
from service.api.schemas.fields import AnimationFormat, AudioFileFormat, Format
from service.api.schemas.text import TextFormat
from service.api.state import ServiceState
from service.runtime.audio.formats import AudioFormat
from service.runtime.credentials.signing import Signer
from service.runtime.images.encoding import ImageFormat
from service.runtime.outputs import FileFormat
from service.runtime.video import ffmpeg

Container = Literal["image", "json", "zip", "npy"]

_MEDIA_TYPES: dict[str, Format] = {
    "image/png": "png",
    "image/jpeg": "jpeg",
    "image/webp": "webp",
    "application/zip": "zip",
    "application/x-npy": "npy",
    "application/json": "json",
}
# The media types that match a wildcard, in order of preference.
_WILDCARDS = {
    "*/*": ("application/json", "image/png"),
    "application/*": ("application/json", "application/zip", "application/x-npy"),
    "image/*": ("image/png", "image/webp", "image/jpeg"),
}
_AUDIO: dict[str, AudioFileFormat] = {
    "audio/wav": "wav",
    "audio/x-wav": "wav",
    "audio/vnd.wave": "wav",
    "audio/flac": "flac",
    "audio/x-flac": "flac",
    "image/png": "png",
    "application/zip": "zip",
    "application/x-npy": "npy",
    "application/json": "json",
}
_AUDIO_WILDCARDS = {
    "*/*": ("application/json", "audio/wav"),
    "application/*": ("application/json", "application/zip", "application/x-npy"),
    "audio/*": ("audio/wav", "audio/flac"),
    "image/*": ("image/png",),
}
_ANIMATIONS: dict[str, AnimationFormat] = {
    "image/webp": "webp",
    "image/gif": "gif",
    "image/png": "png",
    "image/apng": "png",
    "application/zip": "zip",
    "application/x-npy": "npy",
    "video/mp4": "mp4",
    "video/webm": "webm",
}
_ANIMATION_WILDCARDS = {
    "*/*": ("image/webp",),
    "image/*": ("image/webp", "image/gif", "image/png"),
    "application/*": ("application/zip", "application/x-npy"),
    "video/*": ("video/mp4", "video/webm"),
}
_TEXTS: dict[str, TextFormat] = {
    "application/json": "json",
    "text/plain": "text",
    "text/event-stream": "events",
}
_TEXT_WILDCARDS = {
    "*/*": ("application/json",),
    "application/*": ("application/json",),
    "text/*": ("text/plain",),
}
F = TypeVar("F", bound=str)


@dataclass(frozen=True)
class OutputFormat:
    """How the images of a response are packaged, how each is encoded, and what signs its file.

    `audio` is the format of audio; None for images, and for the previews of audio. The container
    `image` is one file, also of audio.
    """

    container: Container
    image: ImageFormat = ImageFormat.PNG
    signer: Signer | None = None
    audio: AudioFormat | None = None

    @property
    def file(self) -> FileFormat:
        """The format of each file."""
        return self.audio or self.image

    @property
    def signed(self) -> bool:
        """Whether the files get Content Credentials."""
        return self.signer is not None


def accept_header(request: Request) -> str | None:
    """Return the Accept header.

    Frequent routes call this function instead of declaring a header parameter, which takes FastAPI
    as long to read as drawing a latent. The OpenAPI document lists the media types of the responses
    anyway.
    """
    return request_headers(request.scope).get("accept")


def negotiate(requested: Format | None, accept: str | None, count: int) -> OutputFormat:
    """Choose the format for `count` images.

    An image format returns a single image as a file, and several as JSON with files of that format.
    Raises Problem (406) if `accept` matches no supported media type.
    """
    chosen = requested or (_best(accept, _MEDIA_TYPES, _WILDCARDS) if accept else "json")
    match chosen:
        case "zip" | "npy" | "json":
            return OutputFormat(chosen)
        case _:
            return OutputFormat("image" if count == 1 else "json", ImageFormat(chosen))


def negotiate_audio(
    requested: AudioFileFormat | None, accept: str | None, count: int
) -> OutputFormat:
    """Choose the format for `count` outputs of audio, like `negotiate`; png is a preview.

    JSON, if it is requested by name, and ZIP have WAV files. Raises Problem (406).
    """
    chosen = requested or (_best(accept, _AUDIO, _AUDIO_WILDCARDS) if accept else "json")
    match chosen:
        case "zip" | "npy" | "json":
            return OutputFormat(chosen, audio=AudioFormat.WAV)
        case "png":
            return OutputFormat("image" if count == 1 else "json")
        case _:
            return OutputFormat("image" if count == 1 else "json", audio=AudioFormat(chosen))


def with_credentials(
    output: OutputFormat, requested: bool | None, state: ServiceState
) -> OutputFormat:
    """Return `output`, with what signs its files if the request or the default asks for it.

    Arrays have no place for credentials: they are refused if they are requested with one, and the
    default does not apply to them. Raises Problem (422).
    """
    wanted = state.settings.c2pa_default if requested is None else requested
    if not wanted or (output.container == "npy" and requested is None):
        return output
    if output.container == "npy":
        formats = ", ".join(ImageFormat)
        raise invalid(
            "c2pa", f"npy cannot hold Content Credentials; use {formats}, or zip or json of them"
        )
    return replace(output, signer=state.signer_or_refuse())


def negotiate_animation(requested: AnimationFormat | None, accept: str | None) -> AnimationFormat:
    """Choose the format of an animation. Raises Problem (406)."""
    if requested is not None:
        return requested
    accept = accept or "*/*"
    media_types = _ANIMATIONS
    if "video/" in accept and not ffmpeg.is_installed():
        media_types = {m: name for m, name in _ANIMATIONS.items() if not m.startswith("video/")}
    return _best(accept, media_types, _ANIMATION_WILDCARDS)


def negotiate_text(requested: TextFormat | None, accept: str | None) -> TextFormat:
    """Choose the format of texts. Raises Problem (406)."""
    return requested or _best(accept or "*/*", _TEXTS, _TEXT_WILDCARDS)


def _best(accept: str, media_types: Mapping[str, F], wildcards: Mapping[str, Sequence[str]]) -> F:
    """Return the format with the highest quality in `accept`. Raises Problem (406)."""
    ranges = [_parse(part) for part in accept.split(",")]
    refused = {media_range for media_range, quality in ranges if not quality > 0}
    # At equal quality, an explicit media type precedes a wildcard.
    for media_range, _ in sorted(ranges, key=lambda item: (-item[1], "*" in item[0])):
        for media_type in wildcards.get(media_range, (media_range,)):
            if media_type in media_types and not {media_type, media_range} & refused:
                return media_types[media_type]
    raise Problem(
        406,
        "not-acceptable",
        "The requested format is not supported",
        f"Accept is {accept[:200]!r}; supported media types: {', '.join(media_types)}",
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
