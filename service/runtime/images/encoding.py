"""Encodes pixels as PNG, JPEG, WebP, NPY and ZIP.

Every image file carries its provenance as JSON under the keyword `ganymede`: in a text chunk of a
PNG, in the EXIF image description of JPEG and WebP. Beside it is the mark of generated images, an
XMP packet with the source type that follows from the provenance.
"""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.runtime.images import xmp
from service.runtime.images.png import encode_png
from service.runtime.images.xmp import SourceType

Pixels = NDArray[np.uint8]
Provenance = Mapping[str, Any]

KEYWORD = "ganymede"
_IMAGE_DESCRIPTION = 0x010E
# Created once: `json.dumps` creates an encoder for every call with options.
_to_json = json.JSONEncoder(separators=(",", ":")).encode
_JPEG_QUALITY = 90
# For lossless files `quality` is the effort, which hardly affects the size: with the default of 80
# a gray image of 1024² takes seconds. `exact` keeps the colors of transparent pixels.
LOSSLESS_WEBP: Mapping[str, Any] = {"lossless": True, "method": 0, "quality": 20, "exact": True}
# The earliest time that ZIP supports: the bytes must not depend on the clock.
ZIP_TIME = (1980, 1, 1, 0, 0, 0)


# Maximum size of EXIF data in a JPEG, in bytes.
_JPEG_EXIF = 65_533


class MetadataTooLarge(Exception):
    """The metadata does not fit into the file format."""


class ImageFormat(StrEnum):
    """A file format for one image."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"

    @property
    def media_type(self) -> str:
        """The media type for Content-Type."""
        return f"image/{self.value}"

    @property
    def extension(self) -> str:
        """The usual file name extension, without the dot."""
        return "jpg" if self is ImageFormat.JPEG else self.value

    @property
    def longest_side(self) -> int:
        """The maximum width and height in pixels."""
        return {"png": 2**31 - 1, "jpeg": 65_500, "webp": 16_383}[self.value]


def encode(
    pixels: Pixels, kind: ImageFormat, provenance: Provenance, *, marked: bool = True
) -> bytes:
    """Encode one image ``[H, W, C] uint8`` with 1, 3 or 4 channels.

    PNG and WebP are lossless. JPEG has no transparency: an RGBA image is composited on white.
    Only files of earlier versions, made again, are not `marked` as generated. Raises
    MetadataTooLarge if the provenance does not fit into a JPEG.
    """
    source_type = SourceType.of(provenance) if marked else None
    if kind is ImageFormat.PNG:
        mark = xmp.png_chunk(source_type)
        return encode_png(pixels, {KEYWORD: provenance_text(provenance)}, mark)
    image = to_image(pixels)
    out = io.BytesIO()
    exif, mark = exif_of(provenance), xmp.packet(source_type)
    if kind is ImageFormat.JPEG:
        if image.mode == "RGBA":
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            image = image.convert("RGB")
        if len(exif) > _JPEG_EXIF:
            raise MetadataTooLarge(
                "the metadata of this image does not fit into a JPEG; use png or webp"
            )
        image.save(out, "JPEG", quality=_JPEG_QUALITY, exif=exif, xmp=mark)
    else:
        image.save(out, "WEBP", **LOSSLESS_WEBP, exif=exif, xmp=mark)
    return out.getvalue()


def to_image(pixels: Pixels) -> Image.Image:
    """Return an image ``[H, W, C]`` with 1, 3 or 4 channels as a Pillow image."""
    return Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)


def exif_of(provenance: Provenance) -> bytes:
    """Return EXIF data with the provenance."""
    exif = Image.Exif()
    exif[_IMAGE_DESCRIPTION] = f"{KEYWORD} {provenance_text(provenance)}"
    return exif.tobytes()


def read_provenance(file: Image.Image) -> dict[str, Any] | None:
    """Return the provenance that a file of this service contains, or None."""
    texts = [file.info.get(KEYWORD), file.getexif().get(_IMAGE_DESCRIPTION)]
    comment = file.info.get("comment")
    texts.append(comment.decode("utf-8", "replace") if isinstance(comment, bytes) else comment)
    for text in texts:
        if isinstance(text, str):
            with contextlib.suppress(ValueError):
                provenance = json.loads(text.removeprefix(KEYWORD))
                if isinstance(provenance, dict):
                    return provenance
    return None


def mixing_grid(columns: Pixels, rows: Pixels, mixed: Pixels) -> Pixels:
    """Arrange a style mix like the StyleGAN paper, in one image ``[H * (R + 1), W * (C + 1)]``.

    `columns` ``[C, ...]`` are at the top, `rows` ``[R, ...]`` on the left, and `mixed` ``[R * C,
    ...]`` in row-major order between them. The corner is white.
    """
    corner = np.full_like(columns[:1], 255)
    lines = [corner, columns]
    for row, line in zip(rows, mixed.reshape(len(rows), *columns.shape), strict=True):
        lines += [row[None], line]
    return image_grid(np.concatenate(lines), len(rows) + 1, len(columns) + 1)


def on_white(pixels: Pixels, alpha: Pixels) -> Pixels:
    """Composite ``pixels [H, W, C]`` with ``alpha [H, W]`` on white, rounded to the nearest."""
    opacity = alpha[..., None].astype(np.uint16)
    # At most 255², which fits into 16 bits.
    blended = pixels * opacity
    blended += 255 * (255 - opacity) + 127
    blended //= 255
    return blended.astype(np.uint8)


def image_grid(images: Pixels, rows: int, columns: int) -> Pixels:
    """Arrange images ``[rows * columns, H, W, C]`` in one image, in row-major order."""
    height, width, channels = images.shape[1:]
    tiles = images.reshape(rows, columns, height, width, channels)
    return tiles.swapaxes(1, 2).reshape(rows * height, columns * width, channels)


def encode_npy(values: NDArray[Any]) -> bytes:
    """Encode an array, such as a batch ``[N, H, W, C]`` of images, as NumPy file."""
    out = io.BytesIO()
    np.save(out, values, allow_pickle=False)
    return out.getvalue()


def pack_zip(files: Sequence[tuple[str, bytes]]) -> bytes:
    """Pack files into an uncompressed archive. Equal files give equal bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files:
            archive.writestr(zipfile.ZipInfo(name, ZIP_TIME), content)
    return out.getvalue()


def provenance_text(provenance: Provenance) -> str:
    """Return the provenance as it is embedded in files: JSON in ASCII."""
    return _to_json(dict(provenance))


def resized(pixels: Pixels, width: int, height: int) -> Pixels:
    """Return an image ``[H, W, C]`` resampled to another size with the Lanczos filter."""
    image = to_image(pixels).resize((width, height), Image.Resampling.LANCZOS)
    resampled = np.asarray(image)
    return resampled if resampled.ndim == 3 else resampled[..., None]
