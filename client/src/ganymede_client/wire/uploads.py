"""Converts images and masks to the files that image-to-image requests contain."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from ganymede_client.wire.calls import FileUpload, Upload

# A Pillow image, pixels [H, W] or [H, W, C], the content of a file, an open file, or a path.
ImageInput = PIL.Image.Image | NDArray[Any] | bytes | BinaryIO | str | os.PathLike[str]
ImageInputs = ImageInput | Sequence[ImageInput]
# An archive of images: a path, a URL that the service reads, or an open file.
ArchiveInput = BinaryIO | str | os.PathLike[str]

_ORIENTATION = 0x0112
_CHANNELS = (1, 2, 3, 4)
_PNG_MODES = frozenset(["1", "L", "LA", "I", "I;16", "I;16B", "P", "RGB", "RGBA"])


def uploads(images: ImageInputs | None, field: str) -> list[Upload]:
    """Return the files of one image or several; an array ``[N, H, W, C]`` has several.

    A Pillow image and an array are encoded as PNG, without loss. Raises OSError for a file that
    cannot be read, and TypeError and ValueError for what is no image.
    """
    items: Sequence[Any]
    if images is None:
        items = []
    elif isinstance(images, np.ndarray) and images.ndim == 4:
        items = list(images)
    elif isinstance(images, (np.ndarray, bytes, str)) or not isinstance(images, Sequence):
        items = [images]
    else:
        items = images
    return [_upload(image, field, i) for i, image in enumerate(items)]


def archive_upload(archive: ArchiveInput, field: str) -> FileUpload:
    """Return the file of an archive, which is read as it is sent. Raises OSError and TypeError."""
    if isinstance(archive, (str, os.PathLike)):
        # Closed with the last reference, which the request holds.
        return FileUpload(field, Path(archive).name, Path(archive).open("rb"))
    if not hasattr(archive, "read"):
        raise TypeError(f"{field}: expected a path or an open file, got {type(archive).__name__}")
    return FileUpload(field, Path(str(getattr(archive, "name", f"{field}.zip"))).name, archive)


def _upload(image: ImageInput, field: str, number: int) -> Upload:
    name = f"{field}-{number}.png"
    if isinstance(image, PIL.Image.Image):
        return Upload(field, name, _png(image, field))
    if isinstance(image, np.ndarray):
        return Upload(field, name, _png(_from_array(image, field), field))
    if isinstance(image, bytes):
        return Upload(field, name, image)
    if isinstance(image, (str, os.PathLike)):
        path = Path(image)
        return Upload(field, path.name, path.read_bytes())
    if hasattr(image, "read"):
        content = image.read()
        if isinstance(content, bytes):
            return Upload(field, name, content)
        raise TypeError(f"{field}: the file is open for text; open it in binary mode")
    raise TypeError(
        f"{field}: expected an image, an array, bytes, a file or a path, got {type(image).__name__}"
    )


def _png(image: PIL.Image.Image, field: str) -> bytes:
    """Encode an image with its orientation and color profile, as a file of it would have them."""
    if image.mode not in _PNG_MODES:
        raise ValueError(
            f"{field}: an image of the mode {image.mode} cannot be sent; convert it first, for "
            "example by image.convert('RGB')"
        )
    options: dict[str, Any] = {}
    if orientation := image.getexif().get(_ORIENTATION):
        exif = PIL.Image.Exif()
        exif[_ORIENTATION] = orientation
        options["exif"] = exif
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=1, **options)
    return out.getvalue()


def _from_array(pixels: NDArray[Any], field: str) -> PIL.Image.Image:
    if pixels.dtype == np.bool_:  # A mask.
        pixels = pixels.astype(np.uint8) * 255
    is_flat = pixels.ndim == 3 and pixels.shape[-1] == 1
    if is_flat:
        pixels = pixels[..., 0]
    channels = pixels.shape[-1] if pixels.ndim == 3 else 1
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or channels not in _CHANNELS:
        raise ValueError(
            f"{field}: expected pixels uint8 [H, W] or [H, W, C] with C from 1 to 4, got "
            f"{pixels.dtype} {list(pixels.shape)}"
        )
    return PIL.Image.fromarray(np.ascontiguousarray(pixels))
