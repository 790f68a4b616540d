"""Fits an image of any size to the images of a model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from service.runtime.images.decoding import DecodedImage
from service.runtime.images.encoding import Pixels, on_white, resized, to_image
from service.runtime.models.parts.outputs import ImageSpec


@dataclass(frozen=True)
class FittedImage:
    """An image ``[H, W, C] uint8`` in the size of a model's images.

    `changes` states what was changed, as JSON: `crop` (x, y, width, height in the upright image),
    `resized_input` (`from` and `to`, each width and height), `color` (``gray``), `background` (the
    color behind transparent pixels).
    """

    pixels: Pixels
    changes: dict[str, Any]


def fit_image(image: DecodedImage, spec: ImageSpec) -> FittedImage:
    """Crop an image around its center to the aspect ratio of `spec`, and resize it (Lanczos).

    Transparent pixels are composited on white if the model's images have no alpha. Colors become
    gray (ITU-R 601 luma) if they have one channel.
    """
    changes: dict[str, Any] = {}
    height, width = image.pixels.shape[:2]
    crop_width = min(width, max(1, round(height * spec.width / spec.height)))
    crop_height = min(height, max(1, round(width * spec.height / spec.width)))
    if (crop_width, crop_height) != (width, height):
        x, y = (width - crop_width) // 2, (height - crop_height) // 2
        part = np.s_[y : y + crop_height, x : x + crop_width]
        alpha = None if image.alpha is None else image.alpha[part]
        image = replace(image, pixels=image.pixels[part], alpha=alpha)
        changes["crop"] = [x, y, crop_width, crop_height]
    pixels = _with_channels(image, spec.channels, changes)
    if (crop_width, crop_height) != (spec.width, spec.height):
        pixels = resized(np.ascontiguousarray(pixels), spec.width, spec.height)
        changes["resized_input"] = {
            "from": [crop_width, crop_height],
            "to": [spec.width, spec.height],
        }
    return FittedImage(np.ascontiguousarray(pixels), changes)


def _with_channels(image: DecodedImage, channels: int, changes: dict[str, Any]) -> Pixels:
    """Return the pixels ``[H, W, channels]``, and note the changes."""
    pixels, alpha = image.pixels, image.alpha
    if channels == 4:
        opaque = np.full(pixels.shape[:2], 255, np.uint8)
        return np.dstack([pixels, opaque if alpha is None else alpha])
    if alpha is not None and (alpha < 255).any():
        pixels = on_white(pixels, alpha)
        changes["background"] = "white"
    if channels == 1:
        if not image.is_gray:
            changes["color"] = "gray"
        return np.asarray(to_image(pixels).convert("L"))[..., None]
    return pixels
