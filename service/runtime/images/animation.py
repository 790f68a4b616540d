"""Animations and archives that are written frame by frame, as the frames are made.

GIF, APNG, ZIP and NPY leave as they grow. A WebP begins with its own length, so it leaves whole,
when its last frame has been encoded; what waits until then is compressed already.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from PIL import Image

from service.runtime.images import png
from service.runtime.images.encoding import (
    KEYWORD,
    LOSSLESS_WEBP,
    ZIP_TIME,
    ImageFormat,
    Pixels,
    Provenance,
    encode,
    exif_of,
    provenance_text,
    to_image,
)

_GIF_EXTENSION, _GIF_IMAGE, _GIF_TRAILER = 0x21, 0x2C, 0x3B
# What a sub-block of a GIF holds at most.
_GIF_BLOCK = 255


@dataclass(frozen=True)
class AnimationSpec:
    """What a writer knows before the first frame: pictures ``[H, W, C]``, and how many a second.

    `provenance` is what the whole file says of itself; `frame_provenance` what frame i says.
    """

    frames: int
    height: int
    width: int
    channels: int
    fps: float
    provenance: Provenance
    frame_provenance: Callable[[int], Mapping[str, Any]]

    def duration(self, frame: int, unit: int) -> int:
        """Return how long a frame is to be seen, in parts of which a second has `unit`.

        Frames differ by one where the parts do not divide evenly, so that the whole lasts as long
        as it should: 24 of them at 24 a second are 1.00 s, and not 0.96 s of hundredths.
        """
        return round((frame + 1) * unit / self.fps) - round(frame * unit / self.fps)


class AnimationWriter(Protocol):
    """Makes a file of frames. `encode` may be called in any thread; the others go in order."""

    media_type: str
    extension: str

    def encode(self, frame: int, pixels: Pixels) -> bytes:
        """Compress one frame."""

    def begin(self) -> bytes:
        """Return what comes before the first frame."""

    def add(self, encoded: bytes) -> bytes:
        """Return what the next frame adds to the file, which may come later."""

    def end(self) -> bytes:
        """Return what comes after the last frame."""


class Gif:
    """GIF89a, each frame with a palette of its own; it repeats for ever."""

    media_type = "image/gif"
    extension = "gif"

    def __init__(self, film: AnimationSpec) -> None:
        self._film = film

    def encode(self, frame: int, pixels: Pixels) -> bytes:
        """Quantise to 256 colours and compress: the image block, without a file round it."""
        image = to_image(pixels)
        if image.mode != "L":
            # The octree alone knows transparency.
            method = Image.Quantize.FASTOCTREE if image.mode == "RGBA" else None
            image = image.quantize(256, method=method)
        out = io.BytesIO()
        image.save(out, "GIF", optimize=False)
        return _gif_image(out.getvalue(), self._film.duration(frame, 100))

    def begin(self) -> bytes:
        """Header, endless repetition, and how it was made as a comment."""
        header = b"GIF89a" + struct.pack("<HHBBB", self._film.width, self._film.height, 0x70, 0, 0)
        repeat = b"\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00"
        text = f"{KEYWORD} {provenance_text(self._film.provenance)}".encode()
        return header + repeat + b"\x21\xfe" + _gif_blocks(text)

    def add(self, encoded: bytes) -> bytes:
        """The frame as it is."""
        return encoded

    def end(self) -> bytes:
        """The trailer."""
        return bytes([_GIF_TRAILER])


class Apng:
    """Animated PNG: what knows no animation shows the first frame. It repeats for ever."""

    media_type = "image/png"
    extension = "png"

    def __init__(self, film: AnimationSpec) -> None:
        self._film = film
        self._number = 0
        self._added = 0

    def encode(self, frame: int, pixels: Pixels) -> bytes:  # noqa: ARG002 - only the file says how
        """Compress as a PNG without any words in it."""
        return png.encode_png(pixels, {})

    def begin(self) -> bytes:
        """Nothing: the header is the first frame's."""
        return b""

    def add(self, encoded: bytes) -> bytes:
        """Return the frame's chunks; the first brings the header and how it was made."""
        parts = list(png.chunks(encoded))
        data = b"".join(body for kind, body in parts if kind == b"IDAT")
        out = b""
        if self._added == 0:
            (header,) = (body for kind, body in parts if kind == b"IHDR")
            text = KEYWORD.encode() + b"\0" + provenance_text(self._film.provenance).encode()
            out += png.SIGNATURE + png.chunk(b"IHDR", header)
            out += png.chunk(b"acTL", struct.pack(">II", self._film.frames, 0))
            out += png.chunk(b"tEXt", text)
        delay = self._film.duration(self._added, 1000)
        size = (self._film.width, self._film.height)
        out += png.chunk(
            b"fcTL", struct.pack(">IIIIIHHBB", self._next(), *size, 0, 0, delay, 1000, 0, 0)
        )
        if self._added == 0:
            out += png.chunk(b"IDAT", data)
        else:
            out += png.chunk(b"fdAT", struct.pack(">I", self._next()) + data)
        self._added += 1
        return out

    def end(self) -> bytes:
        """The end of the file."""
        return png.chunk(b"IEND", b"")

    def _next(self) -> int:
        self._number += 1
        return self._number - 1


class WebP:
    """Animated WebP, lossless; it repeats for ever."""

    media_type = "image/webp"
    extension = "webp"

    def __init__(self, film: AnimationSpec) -> None:
        self._film = film
        self._frames: list[bytes] = []

    def encode(self, frame: int, pixels: Pixels) -> bytes:  # noqa: ARG002 - only the file says how
        """Compress, and keep the chunks without the file round them."""
        out = io.BytesIO()
        to_image(pixels).save(out, "WEBP", **LOSSLESS_WEBP)
        riff = 12
        return out.getvalue()[riff:]

    def begin(self) -> bytes:
        """Nothing yet."""
        return b""

    def add(self, encoded: bytes) -> bytes:
        """Keep the frame."""
        film = self._film
        place = _u24(0) + _u24(0) + _u24(film.width - 1) + _u24(film.height - 1)
        # No blending: a transparent pixel replaces the one before it.
        head = place + _u24(film.duration(len(self._frames), 1000)) + b"\x02"
        self._frames.append(_riff_chunk(b"ANMF", head + encoded))
        return b""

    def end(self) -> bytes:
        """The whole file."""
        film = self._film
        has_alpha, has_exif, is_animated = 0x10, 0x08, 0x02
        flags = has_exif | is_animated | (has_alpha if film.channels == 4 else 0)
        canvas = struct.pack("<I", flags) + _u24(film.width - 1) + _u24(film.height - 1)
        exif = exif_of(film.provenance).removeprefix(b"Exif\0\0")
        body = _riff_chunk(b"VP8X", canvas) + _riff_chunk(b"ANIM", bytes(6))
        body += b"".join(self._frames) + _riff_chunk(b"EXIF", exif)
        return _riff_chunk(b"RIFF", b"WEBP" + body)


class Zip:
    """An archive of PNG files, each of which says how it was made."""

    media_type = "application/zip"
    extension = "zip"

    def __init__(self, film: AnimationSpec) -> None:
        self._film = film
        self._out = _Outlet()
        self._archive = zipfile.ZipFile(self._out, "w", zipfile.ZIP_STORED)
        self._added = 0

    def encode(self, frame: int, pixels: Pixels) -> bytes:
        """Encode as a PNG."""
        return encode(pixels, ImageFormat.PNG, self._film.frame_provenance(frame))

    def begin(self) -> bytes:
        """Nothing."""
        return b""

    def add(self, encoded: bytes) -> bytes:
        """Return the entry."""
        width = len(str(self._film.frames - 1))
        name = f"{self._added:0{width}}.png"
        self._archive.writestr(zipfile.ZipInfo(name, ZIP_TIME), encoded)
        self._added += 1
        return self._out.taken()

    def end(self) -> bytes:
        """The directory."""
        self._archive.close()
        return self._out.taken()


class Npy:
    """One NumPy array ``[frames, H, W, C] uint8``."""

    media_type = "application/x-npy"
    extension = "npy"

    def __init__(self, film: AnimationSpec) -> None:
        self._film = film

    def encode(self, frame: int, pixels: Pixels) -> bytes:  # noqa: ARG002 - an array has no words
        """The bytes as they are."""
        return pixels.tobytes()

    def begin(self) -> bytes:
        """The header."""
        film = self._film
        out = io.BytesIO()
        shape = (film.frames, film.height, film.width, film.channels)
        np.lib.format.write_array_header_1_0(
            out, {"descr": "|u1", "fortran_order": False, "shape": shape}
        )
        return out.getvalue()

    def add(self, encoded: bytes) -> bytes:
        """The frame as it is."""
        return encoded

    def end(self) -> bytes:
        """Nothing."""
        return b""


WRITERS: dict[str, Callable[[AnimationSpec], AnimationWriter]] = {
    "webp": WebP,
    "gif": Gif,
    "png": Apng,
    "zip": Zip,
    "npy": Npy,
}


def write(writer: AnimationWriter, pixels: Iterable[Pixels]) -> bytes:
    """Return the whole file of `pixels`, frame by frame."""
    parts = [writer.begin()]
    parts += [writer.add(writer.encode(i, frame)) for i, frame in enumerate(pixels)]
    return b"".join([*parts, writer.end()])


class _Outlet(io.RawIOBase):
    """A file that cannot go back, and gives away what was written to it."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        return len(self._parts[-1])

    def taken(self) -> bytes:
        taken = b"".join(self._parts)
        self._parts.clear()
        return taken


def _riff_chunk(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def _u24(value: int) -> bytes:
    return value.to_bytes(3, "little")


def _gif_blocks(data: bytes) -> bytes:
    pieces = [data[i : i + _GIF_BLOCK] for i in range(0, len(data), _GIF_BLOCK)]
    return b"".join(bytes([len(piece)]) + piece for piece in pieces) + b"\0"


def _gif_image(file: bytes, hundredths: int) -> bytes:
    """Return the one image of a GIF file as a frame: its global palette becomes the frame's own."""
    header = 13
    has_palette, palette_bits = file[10] & 0x80, file[10] & 0x07
    at = header + (3 << (palette_bits + 1) if has_palette else 0)
    palette = file[header:at]
    control = b"\x00\x00\x00\x00"
    while file[at] == _GIF_EXTENSION:
        start = at + 2
        at = start
        while file[at]:
            at += file[at] + 1
        at += 1
        if file[start - 1] == 0xF9:
            control = file[start + 1 : start + 5]
    place, flags = file[at + 1 : at + 9], file[at + 9]
    if not flags & 0x80:
        flags |= 0x80 | palette_bits
        at += 10
    else:
        palette = file[at + 10 : at + 10 + (3 << ((flags & 0x07) + 1))]
        at += 10 + len(palette)
    # Each frame takes the place of the one before. Browsers slow down what is faster than 2/100 s.
    transparent, transparent_index = control[0] & 0x01, control[3]
    restore = 2 << 2
    delay = struct.pack("<H", max(hundredths, 2))
    extension = b"\x21\xf9\x04" + bytes([restore | transparent]) + delay
    extension += bytes([transparent_index, 0])
    return extension + bytes([_GIF_IMAGE]) + place + bytes([flags]) + palette + file[at:-1]
