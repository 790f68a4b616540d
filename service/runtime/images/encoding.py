"""From pixels to files: PNG, JPEG, WebP, NPY and ZIP.

Every file says how it was made: a PNG in a text chunk, JPEG and WebP in EXIF's image description,
under the keyword `ganymede` and as JSON.
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

from service.runtime.images.png import encode_png

Pixels = NDArray[np.uint8]
Provenance = Mapping[str, Any]

KEYWORD = "ganymede"
_IMAGE_DESCRIPTION = 0x010E
_JPEG_QUALITY = 90
# Of a lossless file `quality` is the effort, on which the size hardly depends: with the usual 80 a
# grey picture of 1024 pixels takes seconds. `exact` keeps the colours of transparent pixels.
LOSSLESS_WEBP: Mapping[str, Any] = {"lossless": True, "method": 0, "quality": 20, "exact": True}
# The oldest time that a ZIP archive can hold: the bytes must not depend on the clock.
ZIP_TIME = (1980, 1, 1, 0, 0, 0)


# Bytes of EXIF that a JPEG holds.
_JPEG_EXIF = 65_533


class MetadataTooLarge(Exception):
    """What a file would have to say of itself is longer than its format holds."""


class ImageFormat(StrEnum):
    """A file format for one picture."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"

    @property
    def media_type(self) -> str:
        """The Content-Type."""
        return f"image/{self.value}"

    @property
    def extension(self) -> str:
        """The usual file name extension, without the dot."""
        return "jpg" if self is ImageFormat.JPEG else self.value

    @property
    def longest_side(self) -> int:
        """The most pixels in a row or a column that a file can hold."""
        return {"png": 2**31 - 1, "jpeg": 65_500, "webp": 16_383}[self.value]


def encode(pixels: Pixels, kind: ImageFormat, provenance: Provenance) -> bytes:
    """Encode one picture ``[H, W, C]`` of 1, 3 or 4 channels.

    JPEG has no transparency: an RGBA picture is laid on white there. PNG and WebP are lossless.
    """
    if kind is ImageFormat.PNG:
        return encode_png(pixels, {KEYWORD: provenance_text(provenance)})
    image = to_image(pixels)
    out = io.BytesIO()
    exif = exif_of(provenance)
    if kind is ImageFormat.JPEG:
        if image.mode == "RGBA":
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            image = image.convert("RGB")
        if len(exif) > _JPEG_EXIF:
            raise MetadataTooLarge(
                "a JPEG has no room for all that this picture is made of; take png or webp"
            )
        image.save(out, "JPEG", quality=_JPEG_QUALITY, exif=exif)
    else:
        image.save(out, "WEBP", **LOSSLESS_WEBP, exif=exif)
    return out.getvalue()


def to_image(pixels: Pixels) -> Image.Image:
    """Return a picture ``[H, W, C]`` of 1, 3 or 4 channels as Pillow has it."""
    return Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)


def exif_of(provenance: Provenance) -> bytes:
    """Return EXIF that says how a picture was made."""
    exif = Image.Exif()
    exif[_IMAGE_DESCRIPTION] = f"{KEYWORD} {provenance_text(provenance)}"
    return exif.tobytes()


def read_provenance(file: Image.Image) -> dict[str, Any] | None:
    """Return what `encode`, or an animation, wrote of itself; None where nothing was written."""
    texts = [file.info.get(KEYWORD), file.getexif().get(_IMAGE_DESCRIPTION)]
    comment = file.info.get("comment")
    texts.append(comment.decode("utf-8", "replace") if isinstance(comment, bytes) else comment)
    for text in texts:
        if isinstance(text, str):
            with contextlib.suppress(ValueError):
                said = json.loads(text.removeprefix(KEYWORD))
                if isinstance(said, dict):
                    return said
    return None


def mixing_grid(columns: Pixels, rows: Pixels, mixed: Pixels) -> Pixels:
    """Lay a style mix out as StyleGAN's paper does, in one picture ``[H * (R + 1), W * (C + 1)]``.

    `columns` ``[C, ...]`` stand above, `rows` ``[R, ...]`` on the left, and `mixed`
    ``[R * C, ...]``, in row-major order, where theirs meet. The corner is white.
    """
    corner = np.full_like(columns[:1], 255)
    lines = [corner, columns]
    for row, line in zip(rows, mixed.reshape(len(rows), *columns.shape), strict=True):
        lines += [row[None], line]
    tiles = np.concatenate(lines).reshape(len(rows) + 1, len(columns) + 1, *columns.shape[1:])
    down, across, height, width, channels = tiles.shape
    return tiles.swapaxes(1, 2).reshape(down * height, across * width, channels)


def encode_npy(values: NDArray[Any]) -> bytes:
    """Encode an array, such as a batch ``[N, H, W, C]`` of pictures, as one NumPy file."""
    out = io.BytesIO()
    np.save(out, values, allow_pickle=False)
    return out.getvalue()


def pack_zip(files: Sequence[tuple[str, bytes]]) -> bytes:
    """Put encoded pictures into an archive, stored as they are; the same files, the same bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files:
            archive.writestr(zipfile.ZipInfo(name, ZIP_TIME), content)
    return out.getvalue()


def provenance_text(provenance: Provenance) -> str:
    """Return how a picture was made, as files carry it: JSON, in ASCII."""
    return json.dumps(dict(provenance), separators=(",", ":"))


def resized(pixels: Pixels, width: int, height: int) -> Pixels:
    """Return a picture ``[H, W, C]`` resampled to another size, by Lanczos' filter."""
    image = to_image(pixels).resize((width, height), Image.Resampling.LANCZOS)
    made = np.asarray(image)
    return made if made.ndim == 3 else made[..., None]
