"""PNG files, written fast: the pixels are what any decoder gives back, the filter is a cheap one.

Pillow tries every filter on every row and deflates with zlib, which costs more than the inference
of a small generator. What there is for the machine is taken: fpng for RGB and RGBA (one pass over
the pixels, with an own form of deflate), igzip for everything else (the Up filter, then deflate
at level 1), and Pillow where neither is installed. `benchmarks/encoding.py` measures them.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

try:
    import fpng
except ImportError:  # no build for this platform
    fpng = None
try:
    from isal import isal_zlib
except ImportError:
    isal_zlib = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOUR_TYPES = {1: 0, 3: 2, 4: 6}
_UP = 2
# fpng holds Python's lock while it works, some 3 ms a megapixel: above this, others would wait.
_MOST_UNDER_LOCK = 2**22


def encode_png(pixels: NDArray[np.uint8], texts: Mapping[str, str]) -> bytes:
    """Encode a picture ``[H, W, C]`` of 1, 3 or 4 channels, with `texts` (ASCII) by keyword.

    The format is that of the PNG specification, third edition (W3C 2025). The texts stand before
    the pixels, where a reader meets them at once.
    """
    height, width, channels = pixels.shape
    if fpng is not None and channels > 1 and height * width <= _MOST_UNDER_LOCK:
        file: bytes = fpng.from_ndarray(np.ascontiguousarray(pixels))
    elif isal_zlib is not None:
        file = _with_igzip(pixels)
    else:
        out = io.BytesIO()
        image = Image.fromarray(pixels.squeeze(-1) if channels == 1 else pixels)
        image.save(out, "PNG", compress_level=1)
        file = out.getvalue()
    words = [
        chunk(b"tEXt", f"{keyword}\0{text}".encode("ascii")) for keyword, text in texts.items()
    ]
    # A file begins with its signature and the header chunk, 13 bytes and 12 around them.
    head = len(SIGNATURE) + 25
    return b"".join([file[:head], *words, file[head:]])


def _with_igzip(pixels: NDArray[np.uint8]) -> bytes:
    height, width, channels = pixels.shape
    rows = pixels.reshape(height, width * channels)
    filtered = np.empty((height, 1 + width * channels), np.uint8)
    filtered[:, 0] = _UP
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0)
    data = isal_zlib.compress(filtered, 1)
    return b"".join([SIGNATURE, chunk(b"IHDR", header), chunk(b"IDAT", data), chunk(b"IEND", b"")])


def chunk(kind: bytes, body: bytes) -> bytes:
    """Return a chunk: its length, its kind, what it holds, and the checksum of both."""
    checksum = zlib.crc32(body, zlib.crc32(kind))
    return b"".join([struct.pack(">I", len(body)), kind, body, struct.pack(">I", checksum)])


def chunks(file: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the chunks of a whole PNG file: their kinds, and what they hold."""
    at = len(SIGNATURE)
    while at < len(file):
        (length,) = struct.unpack_from(">I", file, at)
        yield file[at + 4 : at + 8], file[at + 8 : at + 8 + length]
        at += length + 12
