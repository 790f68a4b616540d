"""The metadata of WAV and FLAC: the provenance in the comment, and the mark of generated audio.

WAV holds the mark as XMP, in the chunk `_PMX` of part 3 of Adobe's specification. FLAC has no place
for XMP: a Vorbis comment holds the URI of the source type, under the name that Matroska files have.
"""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Iterator
from typing import Any

from service.runtime.audio.formats import AudioFormat
from service.runtime.images import xmp
from service.runtime.images.encoding import KEYWORD
from service.runtime.images.xmp import SourceType

# The name of the Vorbis comment.
FLAC_FIELD = "DIGITAL_SOURCE_TYPE"
_FLAC_SIGNATURE = b"fLaC"
_VORBIS_COMMENT = 4
_LAST_BLOCK = 0x80
# Sizes of a `data` chunk that is not known, because the file was written as a stream.
_UNKNOWN_SIZES = (0, 0xFFFFFFFF)


def audio_format_of(content: bytes) -> AudioFormat | None:
    """Return the format that a file starts like, or None for other files."""
    if content.startswith(_FLAC_SIGNATURE):
        return AudioFormat.FLAC
    is_wave = content.startswith(b"RIFF") and content[8:12] == b"WAVE"
    return AudioFormat.WAV if is_wave else None


def marked(content: bytes, source_type: SourceType) -> bytes:
    """Return a WAV or FLAC file with the mark. The audio is not encoded again."""
    if audio_format_of(content) is AudioFormat.WAV:
        # RIFF counts everything after the first eight bytes.
        content += xmp.wave_chunk(source_type)
        return b"RIFF" + struct.pack("<I", len(content) - 8) + content[8:]
    return _with_vorbis_comment(content, f"{FLAC_FIELD}={source_type.uri}".encode())


def audio_source_type(content: bytes) -> str | None:
    """Return the URI of the digital source type of a WAV or FLAC file, or None."""
    if audio_format_of(content) is AudioFormat.FLAC:
        return _vorbis_comments(content).get(FLAC_FIELD)
    return xmp.read_source_type(content)


def audio_provenance(content: bytes) -> dict[str, Any] | None:
    """Return the provenance in the comment of a WAV or FLAC file, or None."""
    text = _comment(content)
    if text is not None and text.startswith(KEYWORD):
        with contextlib.suppress(ValueError):
            provenance = json.loads(text.removeprefix(KEYWORD))
            if isinstance(provenance, dict):
                return provenance
    return None


def is_cut_off(content: bytes) -> bool:
    """Return whether a WAV file ends before its samples do. Decoders do not notice it."""
    if audio_format_of(content) is not AudioFormat.WAV:
        return False
    at = 12
    while at + 8 <= len(content):
        kind, size = struct.unpack_from("<4sI", content, at)
        if kind == b"data":
            return size not in _UNKNOWN_SIZES and at + 8 + size > len(content)
        at += 8 + size + size % 2
    return True


def _comment(content: bytes) -> str | None:
    if audio_format_of(content) is AudioFormat.FLAC:
        comments = _vorbis_comments(content)
        return comments.get("COMMENT") or comments.get("DESCRIPTION")
    for kind, body in _riff_chunks(content, 12):
        if kind == b"LIST" and body.startswith(b"INFO"):
            for name, text in _riff_chunks(body, 4):
                if name == b"ICMT":
                    return text.rstrip(b"\0").decode("utf-8", "replace")
    return None


def _riff_chunks(content: bytes, at: int) -> Iterator[tuple[bytes, bytes]]:
    while at + 8 <= len(content):
        kind, size = struct.unpack_from("<4sI", content, at)
        yield kind, content[at + 8 : at + 8 + size]
        at += 8 + size + size % 2


def _flac_blocks(content: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield the offset of each metadata block, the first byte of its header, and its body."""
    at, flags = len(_FLAC_SIGNATURE), 0
    while not flags & _LAST_BLOCK and at + 4 <= len(content):
        flags = content[at]
        size = int.from_bytes(content[at + 1 : at + 4])
        yield at, flags, content[at + 4 : at + 4 + size]
        at += 4 + size


def _vorbis_comments(content: bytes) -> dict[str, str]:
    """Return the Vorbis comments of a FLAC file by name, in capitals; empty if damaged."""
    comments: dict[str, str] = {}
    with contextlib.suppress(struct.error):
        for _, flags, body in _flac_blocks(content):
            if flags & ~_LAST_BLOCK != _VORBIS_COMMENT:
                continue
            (vendor,) = struct.unpack_from("<I", body)
            at = 4 + vendor
            (count,) = struct.unpack_from("<I", body, at)
            at += 4
            for _ in range(count):
                (size,) = struct.unpack_from("<I", body, at)
                name, _, text = (
                    body[at + 4 : at + 4 + size].decode("utf-8", "replace").partition("=")
                )
                comments.setdefault(name.upper(), text)
                at += 4 + size
    return comments


def _with_vorbis_comment(content: bytes, comment: bytes) -> bytes:
    for at, flags, body in _flac_blocks(content):
        if flags & ~_LAST_BLOCK == _VORBIS_COMMENT:
            (vendor,) = struct.unpack_from("<I", body)
            (count,) = struct.unpack_from("<I", body, 4 + vendor)
            new = body[: 4 + vendor] + struct.pack("<I", count + 1) + body[8 + vendor :]
            new += struct.pack("<I", len(comment)) + comment
            header = bytes([flags]) + len(new).to_bytes(3)
            return content[:at] + header + new + content[at + 4 + len(body) :]
    raise ValueError("a FLAC file without comments")
