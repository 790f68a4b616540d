"""Run an image-to-image model on an image of any size.

An upload is decoded, with its mask, and becomes rows of equal shape: the whole image, or
overlapping tiles whose outputs are blended. Uploads, batch jobs and evaluation share these
functions. The caller runs the graphs: see `service.runtime.generation`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any, Literal

import numpy as np
from PIL import Image

from service.runtime.generation import GraphRun, Plan, execute
from service.runtime.images.color import grayed, split_chroma, with_chroma
from service.runtime.images.decoding import (
    UPLOAD_FORMATS,
    DecodedImage,
    ImageDecodeError,
    decode_image,
)
from service.runtime.images.encoding import Pixels, resized, to_image
from service.runtime.images.masks import MaskInput, opaque_in
from service.runtime.images.tiling import Canvas, Tiling, cut, plan
from service.runtime.models.model import Model
from service.runtime.models.parts.graphs import GENERATOR
from service.runtime.models.parts.inputs import ImageInput
from service.runtime.models.parts.tasks import Task
from service.runtime.onnx.sessions import Array

# Side of an output tile, and minimum side of an input tile, in pixels. They bound the memory of a
# run: its activations hold hundreds of values per pixel of a tile.
TILE_SIDE = 512
MIN_TILE_SIDE = 192
# Models with an unlimited receptive field get tiles that are larger by this factor, and overlap by
# a quarter of their side.
_UNLIMITED_FIELD_SCALE = 2
# The tasks whose output shows the same content as the input: gray stays gray.
_KEEP_GRAY: tuple[Task, ...] = ("upscale", "inpaint")
# Mask values above this are holes to be filled.
_MAX_KNOWN = 127


class ImageMismatch(ValueError):
    """An image or a mask does not fit the model. The message gives the reason."""


class UnusableInput(Exception):
    """An input image or its mask cannot be used; `field` is `image` or `mask`.

    The cause is an ImageDecodeError or an ImageMismatch.
    """

    def __init__(self, field: Literal["image", "mask"], cause: Exception) -> None:
        super().__init__(str(cause))
        self.field = field
        self.cause = cause


@dataclass(frozen=True)
class Translation:
    """One image that is prepared for a model.

    `image` ``[H, W, C] uint8`` and `mask` ``[H, W] uint8`` are the inputs. `alpha` ``[h, w] uint8``
    is added to the output, and has its size. `channels` is the number of output channels.
    `original_size` is (width, height) before resizing to the model's fixed size, or None if the
    image was not resized. With `chroma` ``[H, W, 2] uint8``, the model works on the luma, and its
    output gets these colors. With `keeps_gray`, the output is the luma of the model's output.
    """

    spec: ImageInput
    channels: int
    tiling: Tiling
    image: Pixels
    mask: Pixels | None
    alpha: Pixels | None
    original_size: tuple[int, int] | None = None
    chroma: Pixels | None = None
    keeps_gray: bool = False

    def feeds(self, indices: Sequence[int]) -> Mapping[str, Array]:
        """Return the model's inputs for the tiles `indices`, one row per tile."""
        rows = {"image": cut(self.image, self.tiling, indices)}
        if self.mask is not None:
            rows["mask"] = cut(self.mask[..., None], self.tiling, indices)[..., 0]
        return rows

    @cached_property
    def rows(self) -> tuple[int, ...]:
        """Indices of the tiles to run; at least one.

        With a mask, only tiles with a hole are run, if the input and the output have equally many
        channels, so that the input can replace the other tiles.
        """
        all_tiles = tuple(range(len(self.tiling)))
        if self.mask is None or self.image.shape[2] != self.channels:
            return all_tiles
        holes = (self.mask > _MAX_KNOWN)[..., None]
        return tuple(i for i in all_tiles if cut(holes, self.tiling, [i]).any()) or all_tiles[:1]

    @property
    def parameters(self) -> dict[str, Any]:
        """What was changed to fit the model, for the metadata of the output."""
        parameters: dict[str, Any] = {}
        if self.original_size is not None:
            parameters["resized_input"] = {
                "from": self.original_size,
                "to": self.tiling.shape[::-1],
            }
        if self.chroma is not None:
            parameters["color"] = "luma"
        elif self.keeps_gray:
            parameters["color"] = "gray"
        if self.spec.fixed and self.original_size is None:
            parameters["tiles"] = {"count": len(self.tiling), "size": self.tiling.shape[::-1]}
        return parameters

    @property
    def tile_pixels(self) -> int:
        """Number of output pixels of one row."""
        return math.prod(self.tiling.shape) * self.spec.factor**2

    @property
    def output_pixels(self) -> int:
        """Number of pixels of the output image."""
        return self.tiling.height * self.tiling.width * self.spec.factor**2

    def canvas(self) -> Canvas:
        """Return an empty canvas for the outputs; they are added in the order of `rows`."""
        return Canvas(self.tiling, self.channels)

    def add_outputs(self, canvas: Canvas, indices: Sequence[int], outputs: Pixels) -> None:
        """Add the outputs ``[N, h, w, C]`` of the next `rows`, and the input tiles between them.

        Input tiles take the place of tiles without a hole, which are not run.
        """
        for index, tile in zip(indices, outputs, strict=True):
            self._add_inputs(canvas, index)
            canvas.put(index, tile)
        if indices[-1] == self.rows[-1]:
            self._add_inputs(canvas, len(self.tiling))

    def _add_inputs(self, canvas: Canvas, end: int) -> None:
        while canvas.next < end:
            (tile,) = cut(self.image, self.tiling, [canvas.next])
            canvas.put(canvas.next, tile)

    def finish(self, output: Pixels) -> Pixels:
        """Return the output ``[H, W, C]`` with the colors and the alpha of the input."""
        if self.chroma is not None:
            output = with_chroma(output, self.chroma)
        elif self.keeps_gray:
            output = grayed(output)
        if self.alpha is None or output.shape[2] == 4:
            return output
        color = output if output.shape[2] == 3 else output.repeat(3, 2)
        return np.concatenate([color, self.alpha[..., None]], 2)


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
    formats: tuple[str, ...] | None = UPLOAD_FORMATS,
    source: Mapping[str, Any] | None = None,
) -> PreparedImage:
    """Decode an image and its mask, of at most `max_pixels` each, and prepare them for `model`.

    `formats` are those of `decode_image`. `source` holds the parameters of an image that another
    model generated. Raises UnusableInput.
    """
    parameters: dict[str, Any] = {"task": model.manifest.task}
    if direction is not None:
        parameters["direction"] = direction
    if source is not None:
        parameters["source"] = dict(source)
    field: Literal["image", "mask"] = "image"
    try:
        if isinstance(image, bytes):
            image = decode_image(image, max_pixels=max_pixels, animated=animated, formats=formats)
        parameters["input"] = digest_of(image)
        if image.scaled:
            parameters["scaled"] = True
        field = "mask"
        pixels = None if mask is None else mask.decode(image, max_pixels, formats)
        if pixels is not None:
            parameters["mask"] = digest_of(DecodedImage(pixels[..., None].repeat(3, 2), None))
            if mask is not None and mask.transparent:
                image = opaque_in(image, pixels)
        translation = prepare(model, image, pixels)
        return PreparedImage(translation, parameters | translation.parameters)
    except (ImageDecodeError, ImageMismatch) as error:
        raise UnusableInput(field, error) from error


def prepare(model: Model, upload: DecodedImage, mask: Pixels | None = None) -> Translation:
    """Prepare an image, and a mask ``[H, W] uint8`` if the model takes one.

    Raises ImageMismatch if the model takes no image, if a mask is missing or not supported, or if
    the mask differs in size from the image.
    """
    spec = model.manifest.input
    if spec is None:
        raise ImageMismatch(f"{model.manifest.name} does not take an image")
    task, channels = model.manifest.task, model.manifest.image_spec.channels
    chroma = None
    if task == "upscale" and (spec.channels, channels) == (1, 1) and not upload.is_gray:
        image, chroma = split_chroma(upload.pixels)
    else:
        image = _in_channels(upload, spec.channels)
    height, width = image.shape[:2]
    if spec.masked != (mask is not None):
        expected = "needs a mask" if spec.masked else "takes no mask"
        raise ImageMismatch(f"{model.manifest.name} {expected}")
    if mask is not None and mask.shape != (height, width):
        raise ImageMismatch(
            f"the mask is {mask.shape[1]}×{mask.shape[0]}, but the image is {width}×{height}"
        )
    original_size = None
    # An upscaler runs in tiles instead, so that its output is never smaller than its input.
    if spec.fixed and task != "upscale" and (height, width) != spec.size:
        original_size = (width, height)
        height, width = spec.size
        image = resized(image, width, height)
        if mask is not None:
            mask = np.asarray(
                Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST)
            )
    alpha = upload.alpha
    if alpha is not None and alpha.shape != (height * spec.factor, width * spec.factor):
        alpha = resized(alpha[..., None], width * spec.factor, height * spec.factor)[..., 0]
    return Translation(
        spec,
        channels,
        plan_tiles(spec, height, width),
        image,
        mask,
        alpha,
        original_size,
        chroma,
        keeps_gray=channels > 1 and task in _KEEP_GRAY and upload.is_gray,
    )


def plan_tiles(spec: ImageInput, height: int, width: int) -> Tiling:
    """Return the tiling of an image of ``height × width`` pixels."""
    step, least = spec.multiple, spec.least or spec.multiple
    if spec.fixed:
        return _plan_fixed_tiles(spec, height, width)
    side = max(TILE_SIDE // spec.factor, MIN_TILE_SIDE)
    if spec.reach is None:
        side *= _UNLIMITED_FIELD_SCALE
        overlap, reach = side // 4, 0
    else:
        # Tiles are blended only where both are exact.
        reach = spec.reach
        overlap = 2 * reach + max(step, 16 // spec.factor)
        side = max(side, 2 * overlap)
    side = -(-side // step) * step
    overlap = -(-overlap // step) * step
    side = max(side, overlap + step, least)
    return plan(
        height,
        width,
        side=side,
        overlap=overlap,
        reach=reach,
        multiple=step,
        scale=spec.factor,
        least=least,
    )


def _plan_fixed_tiles(spec: ImageInput, height: int, width: int) -> Tiling:
    """Return the tiling for a graph that only takes images of one size."""
    side = min(spec.size)
    reach = 0 if spec.reach is None else spec.reach
    overlap = max(min(2 * reach + 16 // spec.factor, side // 2), 2 * reach)
    overlaps = (overlap, overlap)
    if spec.reach is None or overlap > side * 3 // 4:
        # The tiles cannot be exact: blending over half of a tile hides the seams.
        reach = 0
        overlaps = (spec.size[0] // 2, spec.size[1] // 2)
    return plan(
        height,
        width,
        side=spec.size,
        overlap=overlaps,
        reach=reach,
        multiple=spec.multiple,
        scale=spec.factor,
        least=spec.size,
    )


def digest_of(upload: DecodedImage) -> str:
    """Return the SHA-256 of a decoded image: of its size, pixels and alpha."""
    height, width = upload.pixels.shape[:2]
    digest = hashlib.sha256(f"{width}×{height}".encode())
    digest.update(np.ascontiguousarray(upload.pixels).data)
    if upload.alpha is not None:
        digest.update(np.ascontiguousarray(upload.alpha).data)
    return digest.hexdigest()


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
        translation.finish(canvas.image())
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


def _concatenated(arrays: Sequence[Array]) -> Array:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _in_channels(upload: DecodedImage, channels: int) -> Pixels:
    if channels == 4:
        alpha = upload.alpha
        if alpha is None:
            alpha = np.full(upload.pixels.shape[:2], 255, np.uint8)
        return np.concatenate([upload.pixels, alpha[..., None]], 2)
    if channels == 1:
        gray: Pixels = np.asarray(to_image(upload.pixels).convert("L"))[..., None]
        return gray
    return upload.pixels
