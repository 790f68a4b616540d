"""Image-to-image models: decode an upload with its mask, run it whole or in tiles, put it together.

Uploads, batch jobs and evaluation share these functions. What runs the graphs is up to the caller:
see `service.runtime.generation`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import numpy as np

from service.runtime.generation import GraphRun, Plan, execute
from service.runtime.images.decoding import (
    DecodedImage,
    ImageDecodeError,
    box_mask,
    decode_image,
    decode_mask,
)
from service.runtime.images.encoding import Pixels
from service.runtime.images.image_to_image import (
    ImageMismatch,
    Translation,
    digest_of,
    prepare,
)
from service.runtime.models.manifest import GENERATOR
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import Array


class UnusableInput(Exception):
    """An input image or its mask cannot be used; `field` is `image` or `mask`.

    The cause is an ImageDecodeError or an ImageMismatch.
    """

    def __init__(self, field: Literal["image", "mask"], cause: Exception) -> None:
        super().__init__(str(cause))
        self.field = field
        self.cause = cause


@dataclass(frozen=True)
class MaskInput:
    """The area to inpaint: the white pixels of a mask file, or boxes ``[x, y, w, h]``."""

    file: bytes | None = None
    boxes: Sequence[Sequence[int]] | None = None


@dataclass(frozen=True)
class PreparedImage:
    """An image that is ready to run; `parameters` describe its input in the output's metadata."""

    translation: Translation
    parameters: dict[str, Any]


def prepare_image(
    model: Model,
    image: bytes | DecodedImage,
    mask: MaskInput | None,
    *,
    direction: str | None,
    max_pixels: int,
    animated: Literal["refuse", "first"],
    source: Mapping[str, Any] | None = None,
) -> PreparedImage:
    """Decode an image and its mask, of at most `max_pixels` each, and prepare them for `model`.

    `source` holds the parameters of an image that another model generated. Raises UnusableInput.
    """
    parameters: dict[str, Any] = {"task": model.manifest.task}
    if direction is not None:
        parameters["direction"] = direction
    if source is not None:
        parameters["source"] = dict(source)
    field: Literal["image", "mask"] = "image"
    try:
        if isinstance(image, bytes):
            image = decode_image(image, max_pixels=max_pixels, animated=animated)
        parameters["input"] = digest_of(image)
        field = "mask"
        pixels = None if mask is None else _mask_pixels(mask, image, max_pixels)
        if pixels is not None:
            parameters["mask"] = digest_of(DecodedImage(pixels[..., None].repeat(3, 2), None))
        return PreparedImage(prepare(model, image, pixels), parameters)
    except (ImageDecodeError, ImageMismatch) as error:
        raise UnusableInput(field, error) from error


def decoded_from_pixels(pixels: Pixels) -> DecodedImage:
    """Return generated pixels ``[H, W, C]``, of 1, 3 or 4 channels, as a decoded image."""
    color = pixels[..., :3] if pixels.shape[2] > 1 else pixels.repeat(3, 2)
    alpha = pixels[..., 3] if pixels.shape[2] == 4 else None
    return DecodedImage(np.ascontiguousarray(color), alpha)


def image_to_image_plan(
    translations: Sequence[Translation], role: str, max_rows: int
) -> Plan[list[Pixels]]:
    """Return the output images ``[H, W, C]``; the translations share one tiling.

    Each run has at most `max_rows` tiles, of one or several images.
    """
    canvases = [translation.canvas() for translation in translations]
    tiles = [(i, index) for i, translation in enumerate(translations) for index in translation.rows]
    for start in range(0, len(tiles), max_rows):
        batch = tiles[start : start + max_rows]
        by_image = [
            (i, [index for _, index in group]) for i, group in groupby(batch, lambda tile: tile[0])
        ]
        parts = [translations[i].feeds(indices) for i, indices in by_image]
        outputs = yield GraphRun(
            role, {name: _concatenated([part[name] for part in parts]) for name in parts[0]}
        )
        row = 0
        for i, indices in by_image:
            pixels = outputs["pixels"][row : row + len(indices)]
            translations[i].add_outputs(canvases[i], indices, pixels)
            row += len(indices)
    return [
        translation.with_alpha(canvas.image())
        for translation, canvas in zip(translations, canvases, strict=True)
    ]


def translate(
    model: Model,
    image: DecodedImage,
    mask: Pixels | None = None,
    direction: str = GENERATOR,
    run: Callable[[Mapping[str, Array]], Array] | None = None,
) -> Pixels:
    """Return the output image ``[H, W, C]``, one tile at a time, in the calling thread.

    `run` replaces the model: it maps the inputs of one tile to its pixels. Raises ImageMismatch.
    """
    plan = image_to_image_plan([prepare(model, image, mask)], direction, max_rows=1)

    def run_graph(role: str, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        return model.run(role, feeds) if run is None else {"pixels": run(feeds)}

    (pixels,) = execute(plan, run_graph)
    return pixels


def _mask_pixels(mask: MaskInput, image: DecodedImage, max_pixels: int) -> Pixels | None:
    if mask.boxes is not None:
        height, width = image.pixels.shape[:2]
        return box_mask(mask.boxes, width, height)
    return None if mask.file is None else decode_mask(mask.file, max_pixels=max_pixels)


def _concatenated(arrays: Sequence[Array]) -> Array:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
