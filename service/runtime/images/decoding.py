"""Decode uploaded PNG, JPEG and WebP files.

The result is always upright, 8 bits per channel and sRGB. Invalid input of any kind raises
`ImageDecodeError` and nothing else. The size in the header is checked before an image is decoded.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms
from PIL.ImageFile import ImageFile

from service.runtime.errors import UserError

Pixels = NDArray[np.uint8]

# Pillow reads dozens of formats; each is a decoder that strangers could reach.
_FORMATS = ("PNG", "JPEG", "WEBP")
_SIGNATURES = {"PNG": b"\x89PNG\r\n\x1a\n", "JPEG": b"\xff\xd8\xff", "WebP": b"RIFF"}
# Encoders write about ten scans. Each takes one pass over the whole picture but as little as
# 16 bytes, so that a small file could keep a decoder busy for an hour.
_MOST_SCANS = 200
# A marker that a segment follows: in a scan's data, 0xFF is followed by 0 or a restart's number.
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
_END_OF_IMAGE, _START_OF_SCAN = 0xD9, 0xDA

# Of each broken field of a file Pillow warns, in words that who sent it can choose.
warnings.filterwarnings("ignore", module=r"PIL\.")

# From the picture as it is stored to the picture as it is meant, by EXIF's orientation.
_UPRIGHT: dict[object, Callable[[Pixels], Pixels]] = {
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: stored[::-1].swapaxes(0, 1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: stored[:, ::-1].swapaxes(0, 1),
}
_MODE_OF_PROFILE = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}


class ImageErrorKind(StrEnum):
    """What is wrong with an upload."""

    NOT_A_PICTURE = "not-a-picture"
    PICTURE_TOO_LARGE = "picture-too-large"
    ANIMATED = "animated"
    MASK_NOT_A_PICTURE = "mask-not-a-picture"
    MASK_TOO_LARGE = "mask-too-large"
    MASK_ANIMATED = "mask-animated"
    BOX_OUTSIDE = "box-outside"


class ImageDecodeError(UserError):
    """An upload cannot be used; `kind` says why in one word, the message in one line."""

    def __init__(self, kind: ImageErrorKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class DecodedImage:
    """A picture that somebody sent. The arrays are not to be written to.

    `pixels` ``[H, W, 3]`` are sRGB, and what the file holds where nothing shows. `alpha`
    ``[H, W]`` is None where the file has no transparency, 255 where the picture is opaque.
    """

    pixels: Pixels
    alpha: Pixels | None


def decode_image(
    data: bytes, *, max_pixels: int, animated: Literal["refuse", "first"] = "refuse"
) -> DecodedImage:
    """Read a PNG, JPEG or WebP file of at most `max_pixels` pixels, upright and in sRGB.

    EXIF's orientation is applied and ICC profiles are converted, perceptually; where one or the
    other is broken the picture is taken as it is. An animation is refused, or its first frame is
    read. A JPEG that carries more pictures behind the first (as telephones write) is no animation.
    Pillow's own limit, `PIL.Image.MAX_IMAGE_PIXELS` twice over, holds beside `max_pixels`.

    Raises ImageDecodeError, and nothing else, of the kinds not-a-picture, picture-too-large and
    animated.
    """
    _refuse_before_opening(data, max_pixels)
    try:
        return _decoded(data, max_pixels, animated)
    except ImageDecodeError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError) as error:
        raise ImageDecodeError(
            ImageErrorKind.PICTURE_TOO_LARGE, "The picture is too large to be decoded."
        ) from error
    except Exception as error:  # A decoder raises whatever broken bytes lead it to.
        raise ImageDecodeError(ImageErrorKind.NOT_A_PICTURE, _why_not(data)) from error


def decode_mask(data: bytes, *, max_pixels: int) -> Pixels:
    """Read a mask ``[H, W]``: 255, to be filled, where the file is grey 128 or lighter, else 0.

    A file is read as `decode_image` does; colours count by their luma (ITU-R BT.601), and what is
    transparent lies on black. Raises ImageDecodeError, and nothing else, of the kinds
    mask-not-a-picture, mask-too-large and mask-animated.
    """
    try:
        read = decode_image(data, max_pixels=max_pixels)
    except ImageDecodeError as error:
        kind = {
            ImageErrorKind.PICTURE_TOO_LARGE: ImageErrorKind.MASK_TOO_LARGE,
            ImageErrorKind.ANIMATED: ImageErrorKind.MASK_ANIMATED,
        }.get(error.kind, ImageErrorKind.MASK_NOT_A_PICTURE)
        raise ImageDecodeError(kind, f"The mask: {error}") from error
    grey = np.asarray(Image.fromarray(read.pixels).convert("L"))
    if read.alpha is not None:
        # Rounded to a level first, as a compositor would.
        grey = ((grey.astype(np.uint16) * read.alpha + 127) // 255).astype(np.uint8)
    return np.where(grey >= 128, np.uint8(255), np.uint8(0))


def box_mask(boxes: Sequence[Sequence[int]], width: int, height: int) -> Pixels:
    """Return the mask ``[height, width]`` that is 255 within boxes ``[x, y, w, h]``, in pixels.

    Raises ImageDecodeError of the kind box-outside if there is no box, or if a box is empty or not
    within the image.
    """
    if not boxes:
        raise ImageDecodeError(ImageErrorKind.BOX_OUTSIDE, "There is no box: give at least one.")
    mask = np.zeros((height, width), np.uint8)
    for box in boxes:
        if len(box) != 4:
            raise ImageDecodeError(
                ImageErrorKind.BOX_OUTSIDE, f"A box is [x, y, w, h], four numbers, not {len(box)}."
            )
        x, y, w, h = box
        if w < 1 or h < 1 or x < 0 or y < 0 or x + w > width or y + h > height:
            raise ImageDecodeError(
                ImageErrorKind.BOX_OUTSIDE,
                f"The box {[x, y, w, h]} is empty or reaches out of the picture: x, y, w and h "
                f"are pixels, w and h at least 1, and the picture is {width} × {height}.",
            )
        mask[y : y + h, x : x + w] = 255
    return mask


def _refuse_before_opening(data: bytes, max_pixels: int) -> None:
    """Refuse what costs much as soon as a decoder looks at it. Raises ImageDecodeError."""
    size = _webp_size(data)
    if size is not None:  # Its decoder takes memory for the whole canvas when it opens a file.
        _check_size(*size, max_pixels)
    if data.startswith(_SIGNATURES["JPEG"]) and _scans(data) > _MOST_SCANS:
        raise ImageDecodeError(
            ImageErrorKind.NOT_A_PICTURE,
            f"The JPEG file has more than {_MOST_SCANS} scans: save it anew.",
        )


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """Return the width and height of a WebP file by its header (RFC 9649); None where unsaid."""
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
    """Count the scans of a JPEG file, up to one more than are allowed."""
    scans = 0
    at = 2
    while scans <= _MOST_SCANS and (found := _MARKER.search(data, at)):
        at = found.end()
        if data[at - 1] == _END_OF_IMAGE:
            break
        scans += data[at - 1] == _START_OF_SCAN
        at += int.from_bytes(data[at : at + 2], "big")  # Past what the segment holds.
    return scans


def _check_size(width: int, height: int, max_pixels: int) -> None:
    """Raise ImageDecodeError for a picture without pixels, or of more than `max_pixels`."""
    if width < 1 or height < 1:
        raise ImageDecodeError(ImageErrorKind.NOT_A_PICTURE, "The picture has no pixels.")
    if width * height > max_pixels:
        raise ImageDecodeError(
            ImageErrorKind.PICTURE_TOO_LARGE,
            f"The picture is {width} × {height}, more than {max_pixels:,} pixels: make it smaller.",
        )


def _decoded(data: bytes, max_pixels: int, animated: Literal["refuse", "first"]) -> DecodedImage:
    """Decode a file. Raises ImageDecodeError, or whatever a decoder raises."""
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        _check_size(*image.size, max_pixels)
        # Pillow calls a JPEG with pictures behind the first MPO, and each a frame.
        moves = image.format != "MPO" and getattr(image, "is_animated", False)
        if moves and animated == "refuse":
            raise ImageDecodeError(
                ImageErrorKind.ANIMATED, "The picture is animated: give one that stands still."
            )
        image.load()
        colour, alpha = _taken_apart(image, data)
        pixels = np.asarray(_in_srgb(colour, image.info.get("icc_profile")))
        turn = _UPRIGHT.get(_orientation(image))
    if turn is not None:
        pixels = np.ascontiguousarray(turn(pixels))
        alpha = None if alpha is None else np.ascontiguousarray(turn(alpha))
    for array in (pixels, alpha):
        if array is not None:
            array.flags.writeable = False
    return DecodedImage(pixels, alpha)


def _taken_apart(image: ImageFile, data: bytes) -> tuple[Image.Image, Pixels | None]:
    """Return an image's colours as L, RGB or CMYK of 8 bits, and its alpha if it has one."""
    match image.mode:
        case "L" | "1" | "RGB":
            key = _transparent_colour(image, data)
            alpha = None if key is None else _opaque_except(np.asarray(image), key)
            return (image.convert("L") if image.mode == "1" else image), alpha
        case "I;16" | "I;16B" | "I":
            levels = np.asarray(image).astype(np.int32)
            key = _transparent_colour(image, data)
            alpha = None if key is None else _opaque_except(levels, key)
            # 65,535 / 255 = 257; to the nearest level, where Pillow would clip.
            grey = (np.clip(levels, 0, 65_535) + 128) // 257
            return Image.fromarray(grey.astype(np.uint8)), alpha
        case "LA":
            return image.getchannel("L"), np.array(image.getchannel("A"))
        case "CMYK":
            return image, None
        case _ if image.has_transparency_data:
            blended = image if image.mode == "RGBA" else image.convert("RGBA")
            return blended.convert("RGB"), np.array(blended.getchannel("A"))
        case _:
            return image.convert("RGB"), None


def _transparent_colour(image: ImageFile, data: bytes) -> NDArray[np.int64] | None:
    """Return the one colour that a PNG without alpha has as transparent, as it is decoded."""
    said = image.info.get("transparency")
    if not isinstance(said, int | tuple):  # A text chunk of that name says nothing.
        return None
    key: NDArray[np.int64] = np.asarray(said, np.int64)
    # Pillow gives the level as it is in the file, not as it decodes it.
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
    same = stored == key
    if same.ndim == 3:
        same = same.all(axis=-1)
    return np.where(same, np.uint8(0), np.uint8(255))


def _in_srgb(colour: Image.Image, profile: object) -> Image.Image:
    """Convert colours in L, RGB or CMYK to sRGB, by their ICC profile if they have a usable one."""
    if isinstance(profile, bytes) and profile:
        try:
            read = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            mode = _MODE_OF_PROFILE.get(read.profile.xcolor_space.strip())
            # A grey picture may come with the profile of the colours that it was made from.
            shown = colour.convert("RGB") if (mode, colour.mode) == ("RGB", "L") else colour
            if shown.mode == mode:
                converted = ImageCms.profileToProfile(
                    shown,
                    read,
                    ImageCms.createProfile("sRGB"),
                    renderingIntent=ImageCms.Intent.PERCEPTUAL,
                    outputMode="RGB",
                )
                if converted is not None:
                    return converted
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001, S110 - without its profile it is a picture still
            pass
    return colour.convert("RGB")


def _orientation(image: ImageFile) -> object:
    """Return EXIF's orientation; 1, upright, where the file says none that can be read."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - EXIF is written by anything, and a picture without it is one
        return 1


def _why_not(data: bytes) -> str:
    """Say why a file cannot be read."""
    for name, signature in _SIGNATURES.items():
        if data.startswith(signature):
            return f"The file is no {name} that can be read: it is damaged or cut short."
    return "The file is no picture: give a PNG, a JPEG or a WebP."
