"""Access to PyAV, the binding to FFmpeg: the extra `video`. Imported when it is first needed."""

from __future__ import annotations

import importlib.util
from typing import Any

from service.runtime.errors import UserError

# Flags of swscale: unbiased rounding, chroma at full precision, and the same result on every CPU.
# The default flags darken an image by one level.
_EXACT = ("BICUBIC", "ACCURATE_RND", "FULL_CHR_H_INT", "FULL_CHR_H_INP", "BITEXACT")


class VideoUnavailable(UserError):
    """PyAV is not installed, or its FFmpeg lacks a codec."""


def is_installed() -> bool:
    """Whether videos can be written. Does not import PyAV."""
    return importlib.util.find_spec("av") is not None


def load() -> Any:
    """Import PyAV. Raises VideoUnavailable."""
    try:
        import av  # noqa: PLC0415 - an extra
        import av.logging  # noqa: PLC0415
    except ImportError as error:
        raise VideoUnavailable(
            "videos need the extra video: pip install 'ganymede[video]'"
        ) from error
    # FFmpeg would write its warnings to standard error; errors are raised.
    av.logging.set_level(None)
    return av


def conversion_flags() -> int:
    """Return the flags for conversions between RGB and YUV."""
    load()
    from av.video.reformatter import Interpolation  # noqa: PLC0415

    flags = 0
    for name in _EXACT:
        flags |= int(Interpolation[name])
    return flags
