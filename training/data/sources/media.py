"""The kinds of files that a `FileSource` reads: images and sounds."""

from __future__ import annotations

import io
import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from service.runtime.images.file_formats import (
    content_of,
    image_format_of,
    readable_formats,
    readable_suffixes,
)
from training.data.sources.containers import File

# Enough for the header of every format; more is read where the size follows a long block.
_HEAD_BYTES = 4096
# Formats of libsndfile.
_SOUND_SUFFIXES = frozenset(
    (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".w64", ".caf")
)
_SOUND_CONTENT = re.compile(rb"RIFF....WAVE|RIFX....WAVE|fLaC|OggS|FORM....AIF[FC]", re.DOTALL)


@dataclass(frozen=True)
class Media:
    """A kind of files: its name, how they are recognized, and why another file is not one."""

    noun: str
    recognizes: Callable[[File], bool]
    why_not: Callable[[File], str]


def _is_image(file: File) -> bool:
    if posixpath.splitext(file.path)[1].lower() in readable_suffixes():
        return True
    try:
        head = file.read(_HEAD_BYTES)
    except OSError:
        return False
    return _looks_like_image(head)


def _looks_like_image(head: bytes) -> bool:
    """Return whether Pillow recognizes the beginning of a file by its content."""
    formats = [name for name in readable_formats() if _accepts(name, head)]
    if not formats:
        return False
    try:
        with Image.open(io.BytesIO(head), formats=formats):
            return True
    except Exception:  # noqa: BLE001 - decoders raise whatever they like
        # The header may be longer than what was read; what cannot be decoded is reported later.
        return any(name in ("AVIF", "HEIF", "JPEG", "PNG", "TIFF", "WEBP") for name in formats)


def _accepts(name: str, head: bytes) -> bool:
    """Return whether Pillow's decoder `name` recognizes the first bytes of a file."""
    _, accept = Image.OPEN[name]
    try:
        # Some return a reason for not decoding the file, as text.
        return accept is not None and accept(head[:16]) is True
    except Exception:  # noqa: BLE001 - some expect more bytes than a short file has
        return False


def _why_not(file: File) -> str | None:
    """Return why a file that holds other files, or a table, is not read, or None."""
    suffix = posixpath.splitext(file.path)[1].lower()
    inside = file.name != file.path or file.archive
    if "idx3-ubyte" in file.path or "idx1-ubyte" in file.path:
        return "is an IDX file in an archive; unpack the archive"
    if suffix == ".parquet":
        return "is a Parquet file without images, or lies beside other images"
    if suffix in (".csv", ".tsv", ".jsonl"):
        return (
            "is a table whose name is not metadata.csv, metadata.jsonl, labels.csv …: rename it to "
            "read its labels"
        )
    if suffix in (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar"):
        which = "in an archive" if inside else "that is damaged"
        return f"is an archive {which}, or of a kind that is not read"
    return None


def _why_no_image(file: File) -> str:
    """Return why a file is not read as an image."""
    if reason := _why_not(file):
        return reason
    try:
        head = file.read(_HEAD_BYTES)
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    if _is_sound(file):
        return "is a sound, which is read by recipes with a section data.sound"
    kind = image_format_of(head)
    if kind is not None:
        needs = ": pip install pillow-heif" if kind == "HEIC" else ""
        return f"is in {kind} format, which cannot be decoded here{needs}"
    content = content_of(head)
    return "is not an image" if content is None else f"is {content}, not an image"


def _why_no_sound(file: File) -> str:
    """Return why a file is not read as a sound."""
    return _why_not(file) or "is not a sound"


def _is_sound(file: File) -> bool:
    if posixpath.splitext(file.path)[1].lower() in _SOUND_SUFFIXES:
        return True
    try:
        return _SOUND_CONTENT.match(file.read(_HEAD_BYTES)) is not None
    except OSError:
        return False


IMAGES = Media("image", _is_image, _why_no_image)
SOUNDS = Media("sound", _is_sound, _why_no_sound)
