"""Masks: the areas of an image that an inpainting model fills."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from service.runtime.images.decoding import (
    UPLOAD_FORMATS,
    DecodedImage,
    ImageDecodeError,
    ImageErrorKind,
    Pixels,
    decode_image,
)


@dataclass(frozen=True)
class MaskInput:
    """The area to inpaint: the white pixels of a mask file, or boxes ``[x, y, w, h]``.

    With `transparent`, the area consists of the fully transparent pixels of the file, or of the
    image itself if there is no file. The area is opaque in the output.
    """

    file: bytes | None = None
    boxes: Sequence[Sequence[int]] | None = None
    transparent: bool = False

    def decode(
        self, image: DecodedImage, max_pixels: int, formats: tuple[str, ...] | None
    ) -> Pixels | None:
        """Return the mask ``[H, W] uint8`` of an image; None if there is none.

        `max_pixels` and `formats` are those of `decode_image`. Raises ImageDecodeError.
        """
        if self.boxes is not None:
            height, width = image.pixels.shape[:2]
            return box_mask(self.boxes, width, height)
        if self.file is None:
            return transparent_area(image, "image") if self.transparent else None
        decode = decode_transparent_mask if self.transparent else decode_mask
        return decode(self.file, max_pixels=max_pixels, formats=formats)


def decode_mask(
    data: bytes, *, max_pixels: int, formats: tuple[str, ...] | None = UPLOAD_FORMATS
) -> Pixels:
    """Decode a mask ``[H, W] uint8``: 255 (to be filled) where the luma is at least 128, else 0.

    The file is decoded by `decode_image`. Luma follows ITU-R BT.601. Transparent pixels are
    composited on black. Raises ImageDecodeError, and nothing else, with the kind MASK_NOT_AN_IMAGE,
    MASK_UNSUPPORTED_FORMAT, MASK_TOO_LARGE or MASK_ANIMATED.
    """
    decoded = _decode(data, max_pixels, formats)
    gray = np.asarray(Image.fromarray(decoded.pixels).convert("L"))
    if decoded.alpha is not None:
        # Rounded to 8 bits before the comparison, as compositing does.
        gray = ((gray.astype(np.uint16) * decoded.alpha + 127) // 255).astype(np.uint8)
    return np.where(gray >= 128, np.uint8(255), np.uint8(0))


def box_mask(boxes: Sequence[Sequence[int]], width: int, height: int) -> Pixels:
    """Return the mask ``[height, width] uint8`` that is 255 inside the boxes ``[x, y, w, h]``.

    Boxes are in pixels. Raises ImageDecodeError with the kind BOX_OUTSIDE if there are no boxes, or
    if a box is empty or extends beyond the image.
    """
    if not boxes:
        raise ImageDecodeError(
            ImageErrorKind.BOX_OUTSIDE, "The list of boxes is empty: send at least one box."
        )
    mask = np.zeros((height, width), np.uint8)
    for box in boxes:
        if len(box) != 4:
            raise ImageDecodeError(
                ImageErrorKind.BOX_OUTSIDE,
                f"A box has four numbers, [x, y, w, h]; got {len(box)}.",
            )
        x, y, w, h = box
        if w < 1 or h < 1 or x < 0 or y < 0 or x + w > width or y + h > height:
            raise ImageDecodeError(
                ImageErrorKind.BOX_OUTSIDE,
                f"The box {[x, y, w, h]} is empty or extends beyond the image: x, y, w and h are "
                f"in pixels, w and h must be at least 1, and the image is {width} × {height}.",
            )
        mask[y : y + h, x : x + w] = 255
    return mask


def decode_transparent_mask(
    data: bytes, *, max_pixels: int, formats: tuple[str, ...] | None = UPLOAD_FORMATS
) -> Pixels:
    """Decode a mask whose fully transparent pixels are to be filled, as `decode_mask` returns it.

    Raises the errors of `decode_mask`, and ImageDecodeError with the kind MASK_OPAQUE if no pixel
    is fully transparent.
    """
    return transparent_area(_decode(data, max_pixels, formats), "mask")


def transparent_area(image: DecodedImage, name: str) -> Pixels:
    """Return the mask ``[H, W] uint8`` that is 255 where the alpha of `image` is 0, and else 0.

    `name` is what the message calls the image. Raises ImageDecodeError with the kind MASK_OPAQUE if
    no pixel is fully transparent.
    """
    if image.alpha is None or image.alpha.all():
        reason = "has no alpha channel" if image.alpha is None else "has no transparent pixel"
        raise ImageDecodeError(
            ImageErrorKind.MASK_OPAQUE,
            f"The {name} {reason}: send a mask whose transparent pixels are the area to fill.",
        )
    return np.where(image.alpha == 0, np.uint8(255), np.uint8(0))


def opaque_in(image: DecodedImage, mask: Pixels) -> DecodedImage:
    """Return the image without transparency where the mask ``[H, W]`` of equal size is set."""
    if image.alpha is None or image.alpha.shape != mask.shape:
        return image
    alpha = np.maximum(image.alpha, mask)
    return replace(image, alpha=None if alpha.min() == 255 else alpha)


def _decode(data: bytes, max_pixels: int, formats: tuple[str, ...] | None) -> DecodedImage:
    """Decode the file of a mask. Raises ImageDecodeError with the kind of a mask."""
    try:
        return decode_image(data, max_pixels=max_pixels, formats=formats)
    except ImageDecodeError as error:
        kind = {
            ImageErrorKind.TOO_LARGE: ImageErrorKind.MASK_TOO_LARGE,
            ImageErrorKind.ANIMATED: ImageErrorKind.MASK_ANIMATED,
            ImageErrorKind.UNSUPPORTED_FORMAT: ImageErrorKind.MASK_UNSUPPORTED_FORMAT,
        }.get(error.kind, ImageErrorKind.MASK_NOT_AN_IMAGE)
        raise ImageDecodeError(kind, f"The mask: {error}") from error
