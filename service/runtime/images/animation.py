"""Animations and archives, written frame by frame as the frames are generated.

GIF, APNG, ZIP and NPY are streamed. A WebP file starts with its total length and is therefore sent
as a whole after the last frame; until then only compressed frames are kept.

Pillow's `save_all` is not used: it needs all frames in memory before it writes the first byte, and
it cannot write a palette per frame with exact durations.
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

from service.runtime.images import png, xmp
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
from service.runtime.images.xmp import SourceType

_GIF_EXTENSION, _GIF_IMAGE, _GIF_TRAILER = 0x21, 0x2C, 0x3B
# Of formats that are not lossless.
DEFAULT_QUALITY = 80
# Maximum size of a GIF data sub-block.
_GIF_BLOCK = 255


@dataclass(frozen=True)
class AnimationSpec:
    """What a writer needs before the first frame: size, number and rate of frames ``[H, W, C]``.

    `source_type` is the mark of the whole file. It is None only for files of earlier versions, made
    again, which have no mark.

    `provenance` is the metadata of the whole file, `frame_provenance(i)` the metadata of frame i.
    `quality`, 1 to 100, is for formats that are not lossless.
    """

    frames: int
    height: int
    width: int
    channels: int
    fps: float
    provenance: Provenance
    frame_provenance: Callable[[int], Mapping[str, Any]]
    quality: int = DEFAULT_QUALITY
    source_type: SourceType | None = SourceType.GENERATED

    def duration(self, frame: int, unit: int) -> int:
        """Return the duration of a frame in 1/`unit` seconds.

        Durations differ by one unit if they do not divide evenly, so that the total is exact: 24
        frames at 24 fps last 1.00 s, not 0.96 s due to rounding to hundredths.
        """
        return round((frame + 1) * unit / self.fps) - round(frame * unit / self.fps)


class AnimationWriter(Protocol):
    """Writes frames into one file. `encode` is thread-safe; the other methods are called in
    order, and take long if the writer is `heavy`: an event loop leaves them to a thread.
    """

    media_type: str
    extension: str
    heavy: bool

    def encode(self, frame: int, pixels: Pixels) -> bytes:
        """Compress one frame."""

    def begin(self) -> bytes:
        """Return the bytes before the first frame."""

    def add(self, encoded: bytes) -> bytes:
        """Return the bytes of the next frame; may be empty if they follow later."""

    def end(self) -> bytes:
        """Return the bytes after the last frame."""


class Gif:
    """GIF89a with a palette per frame; repeats forever."""

    media_type = "image/gif"
    extension = "gif"
    heavy = False

    def __init__(self, spec: AnimationSpec) -> None:
        self._spec = spec

    def encode(self, frame: int, pixels: Pixels) -> bytes:
        """Quantize to 256 colors and compress; return the image block without file header."""
        image = to_image(pixels)
        if image.mode != "L":
            # Only the octree method supports transparency.
            method = Image.Quantize.FASTOCTREE if image.mode == "RGBA" else None
            image = image.quantize(256, method=method)
        out = io.BytesIO()
        image.save(out, "GIF", optimize=False)
        return _gif_image(out.getvalue(), self._spec.duration(frame, 100))

    def begin(self) -> bytes:
        """Return the header, the repetition, the provenance as a comment, and the mark."""
        header = b"GIF89a" + struct.pack("<HHBBB", self._spec.width, self._spec.height, 0x70, 0, 0)
        repeat = b"\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00"
        text = f"{KEYWORD} {provenance_text(self._spec.provenance)}".encode()
        mark = xmp.gif_extension(self._spec.source_type)
        return header + repeat + b"\x21\xfe" + _gif_blocks(text) + mark

    def add(self, encoded: bytes) -> bytes:
        """Return the frame unchanged."""
        return encoded

    def end(self) -> bytes:
        """Return the trailer."""
        return bytes([_GIF_TRAILER])


class Apng:
    """Animated PNG; repeats forever. Viewers without APNG support show the first frame."""

    media_type = "image/png"
    extension = "png"
    heavy = False

    def __init__(self, spec: AnimationSpec) -> None:
        self._spec = spec
        self._number = 0
        self._added = 0

    def encode(self, frame: int, pixels: Pixels) -> bytes:  # noqa: ARG002 - the provenance is in the file header
        """Compress as PNG without text chunks."""
        return png.encode_png(pixels, {})

    def begin(self) -> bytes:
        """Return nothing: the first frame carries the header."""
        return b""

    def add(self, encoded: bytes) -> bytes:
        """Return the chunks of the frame; the first also carries the header and metadata."""
        parts = list(png.chunks(encoded))
        data = b"".join(body for kind, body in parts if kind == b"IDAT")
        out = b""
        if self._added == 0:
            (header,) = (body for kind, body in parts if kind == b"IHDR")
            text = KEYWORD.encode() + b"\0" + provenance_text(self._spec.provenance).encode()
            out += png.SIGNATURE + png.chunk(b"IHDR", header)
            out += png.chunk(b"acTL", struct.pack(">II", self._spec.frames, 0))
            out += png.chunk(b"tEXt", text) + xmp.png_chunk(self._spec.source_type)
        delay = self._spec.duration(self._added, 1000)
        size = (self._spec.width, self._spec.height)
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
        """Return the end of the file."""
        return png.chunk(b"IEND", b"")

    def _next(self) -> int:
        self._number += 1
        return self._number - 1


class WebP:
    """Animated lossless WebP; repeats forever."""

    media_type = "image/webp"
    extension = "webp"
    heavy = False

    def __init__(self, spec: AnimationSpec) -> None:
        self._spec = spec
        self._frames: list[bytes] = []

    def encode(self, frame: int, pixels: Pixels) -> bytes:  # noqa: ARG002 - the provenance is in the file header
        """Compress; return the chunks without file header."""
        out = io.BytesIO()
        to_image(pixels).save(out, "WEBP", **LOSSLESS_WEBP)
        riff = 12
        return out.getvalue()[riff:]

    def begin(self) -> bytes:
        """Return nothing yet."""
        return b""

    def add(self, encoded: bytes) -> bytes:
        """Store the frame until the end."""
        spec = self._spec
        position = _u24(0) + _u24(0) + _u24(spec.width - 1) + _u24(spec.height - 1)
        # No blending: transparent pixels replace the pixels of the previous frame.
        head = position + _u24(spec.duration(len(self._frames), 1000)) + b"\x02"
        self._frames.append(_riff_chunk(b"ANMF", head + encoded))
        return b""

    def end(self) -> bytes:
        """Return the whole file."""
        spec = self._spec
        has_alpha, has_exif, has_xmp, is_animated = 0x10, 0x08, 0x04, 0x02
        mark = xmp.packet(spec.source_type)
        flags = has_exif | is_animated | (has_alpha if spec.channels == 4 else 0)
        flags |= has_xmp if mark else 0
        canvas = struct.pack("<I", flags) + _u24(spec.width - 1) + _u24(spec.height - 1)
        exif = exif_of(spec.provenance).removeprefix(b"Exif\0\0")
        body = _riff_chunk(b"VP8X", canvas) + _riff_chunk(b"ANIM", bytes(6))
        body += b"".join(self._frames) + _riff_chunk(b"EXIF", exif)
        body += _riff_chunk(b"XMP ", mark) if mark else b""
        return _riff_chunk(b"RIFF", b"WEBP" + body)


class Zip:
    """An archive of PNG files, each with its provenance."""

    media_type = "application/zip"
    extension = "zip"
    heavy = False

    def __init__(self, spec: AnimationSpec) -> None:
        self._spec = spec
        self._stream = _WriteOnlyStream()
        self._archive = zipfile.ZipFile(self._stream, "w", zipfile.ZIP_STORED)
        self._added = 0

    def encode(self, frame: int, pixels: Pixels) -> bytes:
        """Encode as a PNG."""
        return encode(pixels, ImageFormat.PNG, self._spec.frame_provenance(frame))

    def begin(self) -> bytes:
        """Return nothing."""
        return b""

    def add(self, encoded: bytes) -> bytes:
        """Return the archive entry."""
        width = len(str(self._spec.frames - 1))
        name = f"{self._added:0{width}}.png"
        self._archive.writestr(zipfile.ZipInfo(name, ZIP_TIME), encoded)
        self._added += 1
        return self._stream.take()

    def end(self) -> bytes:
        """Return the central directory."""
        self._archive.close()
        return self._stream.take()


class Npy:
    """One NumPy array ``[frames, H, W, C] uint8``."""

    media_type = "application/x-npy"
    extension = "npy"
    heavy = False

    def __init__(self, spec: AnimationSpec) -> None:
        self._spec = spec

    def encode(self, frame: int, pixels: Pixels) -> bytes:  # noqa: ARG002 - an array has no metadata
        """Return the raw bytes."""
        return pixels.tobytes()

    def begin(self) -> bytes:
        """Return the header."""
        spec = self._spec
        out = io.BytesIO()
        shape = (spec.frames, spec.height, spec.width, spec.channels)
        np.lib.format.write_array_header_1_0(
            out, {"descr": "|u1", "fortran_order": False, "shape": shape}
        )
        return out.getvalue()

    def add(self, encoded: bytes) -> bytes:
        """Return the frame unchanged."""
        return encoded

    def end(self) -> bytes:
        """Return nothing."""
        return b""


WRITERS: dict[str, Callable[[AnimationSpec], AnimationWriter]] = {
    "webp": WebP,
    "gif": Gif,
    "png": Apng,
    "zip": Zip,
    "npy": Npy,
}


def write(writer: AnimationWriter, pixels: Iterable[Pixels]) -> bytes:
    """Return the whole file for the frames `pixels`."""
    parts = [writer.begin()]
    parts += [writer.add(writer.encode(i, frame)) for i, frame in enumerate(pixels)]
    return b"".join([*parts, writer.end()])


class _WriteOnlyStream(io.RawIOBase):
    """A non-seekable stream. `take` removes its content while it is still being written."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def close(self) -> None:
        """Do nothing.

        The garbage collector may close the stream of an abandoned request before it finalizes the
        archive, which would then raise because it cannot write.
        """

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        return len(self._parts[-1])

    def take(self) -> bytes:
        """Return and remove everything written so far."""
        content = b"".join(self._parts)
        self._parts.clear()
        return content


def _riff_chunk(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def _u24(value: int) -> bytes:
    return value.to_bytes(3, "little")


def _gif_blocks(data: bytes) -> bytes:
    blocks = [data[i : i + _GIF_BLOCK] for i in range(0, len(data), _GIF_BLOCK)]
    return b"".join(bytes([len(block)]) + block for block in blocks) + b"\0"


def _gif_image(file: bytes, hundredths: int) -> bytes:
    """Return the image of a GIF file as a frame with a local palette."""
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
    position, flags = file[at + 1 : at + 9], file[at + 9]
    if not flags & 0x80:
        flags |= 0x80 | palette_bits
        at += 10
    else:
        palette = file[at + 10 : at + 10 + (3 << ((flags & 0x07) + 1))]
        at += 10 + len(palette)
    # Each frame replaces the previous one. Browsers slow down frames shorter than 2/100 s.
    transparent, transparent_index = control[0] & 0x01, control[3]
    restore = 2 << 2
    delay = struct.pack("<H", max(hundredths, 2))
    extension = b"\x21\xf9\x04" + bytes([restore | transparent]) + delay
    extension += bytes([transparent_index, 0])
    return extension + bytes([_GIF_IMAGE]) + position + bytes([flags]) + palette + file[at:-1]
