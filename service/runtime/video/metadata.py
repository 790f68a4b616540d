"""The metadata of videos: the provenance in a comment, and the mark of generated images.

MP4 holds the mark as XMP. Matroska and WebM have no place for XMP: a tag of the file holds the URI
of the source type.
"""

from __future__ import annotations

import io
import json
from typing import Any

from service.runtime.images import xmp
from service.runtime.images.encoding import KEYWORD
from service.runtime.images.xmp import SourceType
from service.runtime.video import ffmpeg

# The name of the tag in Matroska, in the style of its official tags.
MATROSKA_TAG = "DIGITAL_SOURCE_TYPE"
# The first bytes of MP4, and of WebM and Matroska, with their offset.
_SIGNATURES = ((4, b"ftyp", "mp4"), (0, b"\x1a\x45\xdf\xa3", "webm"))


def video_format_of(content: bytes) -> str | None:
    """Return ``mp4`` or ``webm`` for the content of a video, and None for other files."""
    for offset, signature, name in _SIGNATURES:
        if content[offset : offset + len(signature)] == signature:
            return name
    return None


def video_provenance(container: Any) -> dict[str, Any] | None:
    """Return the provenance in the comment of an open video, or None."""
    texts = {name.lower(): text for name, text in container.metadata.items()}
    try:
        provenance = json.loads(texts.get("comment", "").removeprefix(KEYWORD))
    except ValueError:
        return None
    return provenance if isinstance(provenance, dict) else None


def source_type_of(content: bytes) -> str | None:
    """Return the URI of the digital source type of an image or a video, or None.

    Pixels are not decoded. Raises VideoUnavailable for a WebM or Matroska file without PyAV, and
    FFmpegError if one is damaged.
    """
    if video_format_of(content) != "webm":
        return xmp.read_source_type(content)
    with ffmpeg.load().open(io.BytesIO(content), metadata_errors="replace") as container:
        return video_source_type(content, container)


def video_source_type(content: bytes, container: Any) -> str | None:
    """Return the URI of the digital source type of a video, or None.

    `container` is the video `content`, opened with PyAV.
    """
    texts = {name.upper(): text for name, text in container.metadata.items()}
    return xmp.read_source_type(content) or texts.get(MATROSKA_TAG)


def write_video_metadata(container: Any, comment: str, source_type: SourceType | None) -> None:
    """Set the metadata of a video that is opened for writing with PyAV.

    In an MP4, the mark is what `video_trailer` returns.
    """
    container.metadata["comment"] = comment
    if source_type is not None and container.format.name != "mp4":
        container.metadata[MATROSKA_TAG] = source_type.uri


def video_trailer(muxer: str, source_type: SourceType | None) -> bytes:
    """Return what follows the video that a muxer of FFmpeg has written: the mark of an MP4."""
    return xmp.mp4_box(source_type) if muxer == "mp4" else b""
