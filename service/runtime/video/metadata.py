"""Reads the metadata that the service writes into the comment of a video."""

from __future__ import annotations

import json
from typing import Any

from service.runtime.images.encoding import KEYWORD

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
