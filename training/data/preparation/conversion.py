"""Crop, resize and convert one image."""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL import Image

from training.data.preparation.options import FileFormat, PreparationOptions

_FILTERS = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
    "nearest": Image.Resampling.NEAREST,
}
SUFFIXES: dict[FileFormat, str] = {"png": ".png", "webp-lossless": ".webp", "jpeg": ".jpg"}


@dataclass(frozen=True)
class Conversion:
    """A prepared image file, and what was done to the image, such as ``enlarged``."""

    file: bytes
    changes: tuple[str, ...]


def convert(image: Image.Image, options: PreparationOptions) -> Conversion:
    """Prepare an image of mode L, RGB or RGBA and encode it."""
    changes: list[str] = []
    image = _with_mode(image, options, changes)
    if options.size is not None:
        image = _with_size(image, options, options.size, changes)
    out = io.BytesIO()
    match options.file_format:
        case "png":
            image.save(out, "PNG")
        case "webp-lossless":
            # `exact` keeps the colors of transparent pixels.
            image.save(out, "WEBP", lossless=True, exact=True)
        case "jpeg":
            image.save(out, "JPEG", quality=95, subsampling=0)
    return Conversion(out.getvalue(), tuple(changes))


def _with_mode(image: Image.Image, options: PreparationOptions, changes: list[str]) -> Image.Image:
    if options.mode == "keep":
        return image
    if options.mode == "rgba":
        return image.convert("RGBA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            changes.append("transparency composited on white")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    mode = "L" if options.mode == "gray" else "RGB"
    if (image.mode == "L") != (mode == "L"):
        changes.append("color to gray" if mode == "L" else "gray to RGB")
    return image.convert(mode)


def _with_size(
    image: Image.Image, options: PreparationOptions, size: tuple[int, int], changes: list[str]
) -> Image.Image:
    if image.size != size:
        image = _resized(image, options, size, changes)
    if options.crop != "center-crop-wide":
        return image
    square = Image.new(image.mode, (size[0], size[0]), "black")
    square.paste(image, (0, (size[0] - size[1]) // 2))
    return square


def _resized(
    image: Image.Image, options: PreparationOptions, size: tuple[int, int], changes: list[str]
) -> Image.Image:
    width, height = image.size
    box = (0, 0, width, height)
    if options.crop != "none":
        # The largest area of the shape of `size`, in whole pixels.
        crop_width = min(width, max(round(height * size[0] / size[1]), 1))
        crop_height = min(height, max(round(width * size[1] / size[0]), 1))
        left, top = (width - crop_width) // 2, (height - crop_height) // 2
        box = (left, top, left + crop_width, top + crop_height)
        if (crop_width, crop_height) != (width, height):
            changes.append("cropped")
    elif width * size[1] != height * size[0]:
        changes.append("shape changed")
    area = (box[2] - box[0], box[3] - box[1])
    if area[0] < size[0] or area[1] < size[1]:
        changes.append("enlarged")
    elif area != size:
        changes.append("reduced")
    return image.resize(size, _FILTERS[options.filter], box=box)
