"""Decode image files to upright sRGB pixels with 8 bits per channel.

The service restricts the formats and the size of uploads; training reads every format that Pillow
supports. Invalid input of any kind raises `ImageDecodeError` and nothing else. The size in the
header is checked before an image is decoded.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms
from PIL.ImageFile import ImageFile

from service.runtime.errors import UserError
from service.runtime.images.file_formats import (
    UNREADABLE,
    content_of,
    image_format_of,
    readable_formats,
)
from service.runtime.images.levels import has_inferred_range, stored_values, to_levels

# Registers the decoder of HEIC with Pillow, if it is installed.
with contextlib.suppress(ImportError):
    import pillow_heif  # type: ignore[import-not-found]

    pillow_heif.register_heif_opener()

Pixels = NDArray[np.uint8]

# The formats of uploads. Every further format of Pillow would expose one more decoder to untrusted
# input.
UPLOAD_FORMATS = ("PNG", "JPEG", "WEBP")
_UPLOAD_TITLES = ("PNG", "JPEG", "WebP")
# Encoders write about ten scans. A scan takes as little as 16 bytes, but the decoder processes the
# whole image for each: a small file could keep it busy for an hour.
_MAX_SCANS = 200
# A JPEG marker that is followed by a segment. In scan data, 0xFF is followed by 0 or by the number
# of a restart marker.
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
_END_OF_IMAGE, _START_OF_SCAN = 0xD9, 0xDA

# Pillow's warnings about broken fields contain text from the file, which must not reach the log.
warnings.filterwarnings("ignore", module=r"PIL\.")

# Converts stored pixels to upright pixels, by EXIF orientation.
_UPRIGHT: dict[object, Callable[[Pixels], Pixels]] = {
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: stored[::-1].swapaxes(0, 1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: stored[:, ::-1].swapaxes(0, 1),
}
# Pillow's mode for the color space of an ICC profile.
_PROFILE_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}


class ImageErrorKind(StrEnum):
    """Why an image, a mask or a box cannot be used. The values are public problem types."""

    NOT_AN_IMAGE = "not-a-picture"
    UNSUPPORTED_FORMAT = "image-format-not-supported"
    TOO_LARGE = "picture-too-large"
    ANIMATED = "animated"
    MASK_NOT_AN_IMAGE = "mask-not-a-picture"
    MASK_UNSUPPORTED_FORMAT = "mask-format-not-supported"
    MASK_TOO_LARGE = "mask-too-large"
    MASK_ANIMATED = "mask-animated"
    MASK_OPAQUE = "mask-opaque"
    BOX_OUTSIDE = "box-outside"


class ImageDecodeError(UserError):
    """An image, a mask or a box cannot be used. The message is one line."""

    def __init__(self, kind: ImageErrorKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image. The arrays are read-only.

    `pixels` ``[H, W, 3] uint8`` are sRGB, not premultiplied with alpha. `alpha` ``[H, W] uint8`` is
    255 for opaque pixels, or None if the file has no transparency. `scaled` is True for values
    whose range the file does not define, such as floats: the range was inferred from the values.
    """

    pixels: Pixels
    alpha: Pixels | None
    scaled: bool = False

    @cached_property
    def is_gray(self) -> bool:
        """Whether every pixel is gray."""
        red = self.pixels[..., 0]
        return all(np.array_equal(red, self.pixels[..., i]) for i in (1, 2))

    def to_pil(self) -> Image.Image:
        """Return a Pillow image of mode RGBA, or RGB if the file has no transparency."""
        if self.alpha is None:
            return Image.fromarray(self.pixels)
        return Image.fromarray(np.dstack([self.pixels, self.alpha]))


def decode_image(
    data: bytes,
    *,
    max_pixels: int | None,
    animated: Literal["refuse", "first"] = "refuse",
    formats: tuple[str, ...] | None = UPLOAD_FORMATS,
) -> DecodedImage:
    """Decode an image file of at most `max_pixels` pixels; None means no limit.

    `formats` are the accepted formats, in Pillow's names; None means every format that Pillow can
    read, and is for trusted files only. `animated` selects whether an animation is refused or its
    first frame is decoded. A JPEG file from a phone may contain further images after the first; it
    is not an animation.

    The EXIF orientation is applied, and ICC profiles are converted with perceptual intent; invalid
    EXIF data or profiles are ignored. Pillow's own limit of twice `PIL.Image.MAX_IMAGE_PIXELS`
    applies as well.

    Raises ImageDecodeError, and nothing else, with the kind NOT_AN_IMAGE, UNSUPPORTED_FORMAT,
    TOO_LARGE or ANIMATED.
    """
    _check_before_opening(data, max_pixels)
    try:
        return _decode(data, max_pixels, animated, formats)
    except ImageDecodeError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError) as error:
        raise ImageDecodeError(
            ImageErrorKind.TOO_LARGE, "The image is too large to be decoded."
        ) from error
    except Exception as error:  # Broken files make decoders raise exceptions of any type.
        raise _failure(data, formats) from error


def _check_before_opening(data: bytes, max_pixels: int | None) -> None:
    """Refuse files that are expensive even to open. Raises ImageDecodeError."""
    size = _webp_size(data)
    if size is not None:  # The WebP decoder allocates the whole canvas on opening.
        _check_size(*size, max_pixels)
    if data.startswith(b"\xff\xd8\xff") and _scans(data) > _MAX_SCANS:
        raise ImageDecodeError(
            ImageErrorKind.NOT_AN_IMAGE,
            f"The JPEG file has more than {_MAX_SCANS} scans: save it again as a baseline JPEG.",
        )


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """Return the width and height in a WebP header (RFC 9649), or None for any other file."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return None
    kind = data[12:16]
    if kind == b"VP8X":
        return (
            int.from_bytes(data[24:27], "little") + 1,
            int.from_bytes(data[27:30], "little") + 1,
        )
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (26, 28))
        return width, height
    return None


def _scans(data: bytes) -> int:
    """Return the number of scans of a JPEG file; counting stops at one above the limit."""
    scans = 0
    at = 2
    while scans <= _MAX_SCANS and (marker := _MARKER.search(data, at)):
        at = marker.end()
        if data[at - 1] == _END_OF_IMAGE:
            break
        scans += data[at - 1] == _START_OF_SCAN
        at += int.from_bytes(data[at : at + 2], "big")  # Skip the segment.
    return scans


def _check_size(width: int, height: int, max_pixels: int | None) -> None:
    """Raise ImageDecodeError if an image is empty or has more than `max_pixels` pixels."""
    if width < 1 or height < 1:
        raise ImageDecodeError(ImageErrorKind.NOT_AN_IMAGE, "The image has no pixels.")
    if max_pixels is not None and width * height > max_pixels:
        raise ImageDecodeError(
            ImageErrorKind.TOO_LARGE,
            f"The image is {width} × {height}; the limit is {max_pixels:,} pixels. Send a smaller "
            "image.",
        )


def _decode(
    data: bytes,
    max_pixels: int | None,
    animated: Literal["refuse", "first"],
    formats: tuple[str, ...] | None,
) -> DecodedImage:
    """Decode a file. Raises ImageDecodeError, or any exception of a decoder."""
    with Image.open(io.BytesIO(data), formats=formats or readable_formats()) as image:
        _check_size(*image.size, max_pixels)
        # Pillow opens a JPEG with further images as MPO, with the images as frames.
        is_animation = image.format != "MPO" and getattr(image, "is_animated", False)
        if is_animation and animated == "refuse":
            raise ImageDecodeError(
                ImageErrorKind.ANIMATED, "The image is animated: send a still image."
            )
        image.load()
        color, alpha = _split_alpha(image, data)
        pixels = np.asarray(_to_srgb(color, image.info.get("icc_profile")))
        scaled = has_inferred_range(image)
        to_upright = _UPRIGHT.get(_orientation(image))
    if to_upright is not None:
        pixels = np.ascontiguousarray(to_upright(pixels))
        alpha = None if alpha is None else np.ascontiguousarray(to_upright(alpha))
    for array in (pixels, alpha):
        if array is not None:
            array.flags.writeable = False
    return DecodedImage(pixels, alpha, scaled)


def _split_alpha(image: ImageFile, data: bytes) -> tuple[Image.Image, Pixels | None]:
    """Return the colors as 8-bit L, RGB or CMYK, and alpha ``[H, W]`` or None."""
    match image.mode:
        case "L" | "1" | "RGB":
            key = _transparent_color(image, data)
            alpha = None if key is None else _opaque_except(np.asarray(image), key)
            return (image.convert("L") if image.mode == "1" else image), alpha
        case mode if mode == "F" or mode.startswith("I"):
            values = stored_values(image)
            key = _transparent_color(image, data)
            alpha = None if key is None else _opaque_except(values, key)
            return Image.fromarray(to_levels(image, values)), alpha
        case "LA":
            return image.getchannel("L"), np.array(image.getchannel("A"))
        case "CMYK":
            return image, None
        case _ if image.has_transparency_data:
            rgba = image if image.mode == "RGBA" else image.convert("RGBA")
            return rgba.convert("RGB"), np.array(rgba.getchannel("A"))
        case _:
            return image.convert("RGB"), None


def _transparent_color(image: ImageFile, data: bytes) -> NDArray[np.int64] | None:
    """Return the transparent color of an image without alpha, scaled as its decoded pixels."""
    transparency = image.info.get("transparency")
    if not isinstance(transparency, int | tuple):  # For example a text chunk of that name.
        return None
    key: NDArray[np.int64] = np.asarray(transparency, np.int64)
    if image.format != "PNG":
        return key
    # Pillow returns the value at the bit depth of the file, which is stored in byte 24 of a PNG.
    depth = data[24]
    if image.mode == "L" and depth < 8:
        key = key * 255 // (2**depth - 1)
    elif image.mode == "RGB" and depth == 16:
        key = key // 256
    return key


def _opaque_except(stored: NDArray[np.generic], key: NDArray[np.int64]) -> Pixels:
    """Return alpha ``[H, W]``: 0 where `stored` ``[H, W]`` or ``[H, W, C]`` equals `key`."""
    if stored.dtype == np.bool_:
        stored = stored.astype(np.uint8) * np.uint8(255)
    transparent = stored == key
    if transparent.ndim == 3:
        transparent = transparent.all(axis=-1)
    return np.where(transparent, np.uint8(0), np.uint8(255))


def _to_srgb(color: Image.Image, profile: object) -> Image.Image:
    """Convert L, RGB or CMYK to sRGB, with the ICC profile if it is valid and fits the mode."""
    is_gray = color.mode == "L"
    if isinstance(profile, bytes) and profile:
        try:
            icc = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            mode = _PROFILE_MODES.get(icc.profile.xcolor_space.strip())
            # A gray image may carry the RGB profile of the image it was made from.
            source = color.convert("RGB") if (mode, color.mode) == ("RGB", "L") else color
            if source.mode == mode:
                converted = ImageCms.profileToProfile(
                    source,
                    icc,
                    ImageCms.createProfile("sRGB"),
                    renderingIntent=ImageCms.Intent.PERCEPTUAL,
                    outputMode="RGB",
                )
                if converted is not None:
                    # Rounding must not tint gray.
                    return converted.convert("L").convert("RGB") if is_gray else converted
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001, S110 - an invalid profile is ignored
            pass
    return color.convert("RGB")


def _orientation(image: ImageFile) -> object:
    """Return the EXIF orientation; 1 (upright) if it is missing or unreadable."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - invalid EXIF data are ignored
        return 1


def _failure(data: bytes, formats: tuple[str, ...] | None) -> ImageDecodeError:
    """Return the error for a file that cannot be decoded."""
    name = image_format_of(data)
    kind = ImageErrorKind.UNSUPPORTED_FORMAT
    if formats is not None and name not in (None, *_UPLOAD_TITLES):
        text = f"The file is in {name} format, which is not accepted: convert it to PNG, JPEG or"
        return ImageDecodeError(kind, f"{text} WebP.")
    if name in UNREADABLE:
        return ImageDecodeError(
            kind, f"The file is in {name} format, which Pillow does not read: convert it to PNG."
        )
    if name == "HEIC" and "HEIF" not in Image.OPEN:
        return ImageDecodeError(
            kind,
            "The file is in HEIC format, which needs a decoder: install pillow-heif, or convert it "
            "to PNG, JPEG or WebP.",
        )
    kind = ImageErrorKind.NOT_AN_IMAGE
    if name is not None:
        variant = "" if name in _UPLOAD_TITLES else ", or a variant that Pillow does not read"
        return ImageDecodeError(
            kind, f"The file is not a valid {name}: it is damaged or truncated{variant}."
        )
    if not data:
        return ImageDecodeError(kind, "The file is empty.")
    content = content_of(data)
    described = f"The file is {content}, not an image" if content else "The file is not an image"
    if formats is None:
        return ImageDecodeError(kind, f"{described} in a format that Pillow reads.")
    return ImageDecodeError(kind, f"{described}: send a PNG, JPEG or WebP file.")
