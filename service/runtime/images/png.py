"""Fast PNG encoding.

Pillow tries all filters on every row and deflates with zlib, which takes longer than the inference
of a small generator. This module uses fpng for RGB and RGBA (one pass over the pixels with its own
deflate) and igzip for other images (the Up filter, then deflate at level 1). Without these packages
it uses Pillow. Decoded pixels are the same. `benchmarks/encoding.py` measures the encoders.
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
except ImportError:  # no wheel for this platform
    fpng = None
try:
    from isal import isal_zlib
except ImportError:
    isal_zlib = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOR_TYPES = {1: 0, 3: 2, 4: 6}
_UP = 2
# fpng holds the GIL while encoding, about 3 ms per megapixel: larger images would block other
# threads.
_MAX_FPNG_PIXELS = 2**22


def encode_png(
    pixels: NDArray[np.uint8], texts: Mapping[str, str], more_chunks: bytes = b""
) -> bytes:
    """Encode an image ``[H, W, C]`` with 1, 3 or 4 channels, and `texts` (ASCII) by keyword.

    Follows the PNG specification, third edition (W3C 2025). The text chunks precede the pixels, so
    that readers need not read the pixels to find them; whole chunks in `more_chunks` follow them.
    """
    height, width, channels = pixels.shape
    if fpng is not None and channels > 1 and height * width <= _MAX_FPNG_PIXELS:
        file: bytes = fpng.from_ndarray(np.ascontiguousarray(pixels))
    elif isal_zlib is not None:
        file = _with_igzip(pixels)
    else:
        out = io.BytesIO()
        image = Image.fromarray(pixels.squeeze(-1) if channels == 1 else pixels)
        image.save(out, "PNG", compress_level=1)
        file = out.getvalue()
    text_chunks = [
        chunk(b"tEXt", f"{keyword}\0{text}".encode("ascii")) for keyword, text in texts.items()
    ]
    # Signature and header chunk: 13 bytes of data and 12 of framing.
    head = len(SIGNATURE) + 25
    return b"".join([file[:head], *text_chunks, more_chunks, file[head:]])


def _with_igzip(pixels: NDArray[np.uint8]) -> bytes:
    height, width, channels = pixels.shape
    rows = pixels.reshape(height, width * channels)
    filtered = np.empty((height, 1 + width * channels), np.uint8)
    filtered[:, 0] = _UP
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOR_TYPES[channels], 0, 0, 0)
    data = isal_zlib.compress(filtered, 1)
    return b"".join([SIGNATURE, chunk(b"IHDR", header), chunk(b"IDAT", data), chunk(b"IEND", b"")])


def chunk(kind: bytes, body: bytes) -> bytes:
    """Return a chunk: length, kind, body, and the checksum of kind and body."""
    checksum = zlib.crc32(body, zlib.crc32(kind))
    return b"".join([struct.pack(">I", len(body)), kind, body, struct.pack(">I", checksum)])


def chunks(file: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the kind and body of every chunk of a PNG file."""
    at = len(SIGNATURE)
    while at < len(file):
        (length,) = struct.unpack_from(">I", file, at)
        yield file[at + 4 : at + 8], file[at + 8 : at + 8 + length]
        at += length + 12
