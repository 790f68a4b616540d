"""Run an image-to-image model on an image of any size.

An image becomes rows of equal shape: the whole image, or overlapping tiles whose outputs are
blended. The caller runs the rows: the service in its scheduler, a batch job in its own threads.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.runtime.images.decoding import DecodedImage
from service.runtime.images.encoding import resized, to_image
from service.runtime.images.tiling import Canvas, Tiling, cut, plan
from service.runtime.models.manifest import ImageInput
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import Array

Pixels = NDArray[np.uint8]

# Side of an output tile, and the smallest side of an input tile, in pixels. They bound the memory
# of a run, whose activations take some hundred times as many values as a tile has pixels.
TILE_SIDE = 512
MIN_TILE_SIDE = 192
# Models with an unlimited receptive field get tiles larger by this factor, which overlap by a
# quarter.
_UNLIMITED_FIELD_SCALE = 2
# Mask values above this are holes to be filled.
_MAX_KNOWN = 127


class ImageMismatch(ValueError):
    """An image or a mask does not fit the model; the message says why."""


@dataclass(frozen=True)
class Translation:
    """One image that is prepared for a model.

    `image` ``[H, W, C] uint8`` and `mask` ``[H, W] uint8`` are the inputs. `alpha` ``[h, w] uint8``
    has the size of the output, to which it is added. `channels` are those of the output.
    `original_size` is (width, height) before resizing to the model's fixed size, or None if the
    image was not resized.
    """

    spec: ImageInput
    channels: int
    tiling: Tiling
    image: Pixels
    mask: Pixels | None
    alpha: Pixels | None
    original_size: tuple[int, int] | None = None

    def feeds(self, indices: Sequence[int]) -> Mapping[str, Array]:
        """Return the model's inputs for the tiles `indices`, one row per tile."""
        rows = {"image": cut(self.image, self.tiling, indices)}
        if self.mask is not None:
            rows["mask"] = cut(self.mask[..., None], self.tiling, indices)[..., 0]
        return rows

    @cached_property
    def rows(self) -> tuple[int, ...]:
        """Indices of the tiles to run: those with a hole if there is a mask; at least one."""
        all_tiles = tuple(range(len(self.tiling)))
        if self.mask is None or self.image.shape[2] != self.channels:
            return all_tiles
        holes = (self.mask > _MAX_KNOWN)[..., None]
        return tuple(i for i in all_tiles if cut(holes, self.tiling, [i]).any()) or all_tiles[:1]

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

    def with_alpha(self, output: Pixels) -> Pixels:
        """Return the output ``[H, W, C]`` with the alpha of the input, if it had one."""
        if self.alpha is None or output.shape[2] == 4:
            return output
        color = output if output.shape[2] == 3 else output.repeat(3, 2)
        return np.concatenate([color, self.alpha[..., None]], 2)


def prepare(model: Model, upload: DecodedImage, mask: Pixels | None = None) -> Translation:
    """Prepare an image, and a mask ``[H, W] uint8`` if the model takes one.

    Raises ImageMismatch if the model takes no image, if the mask differs in size from the image, or
    if there is a mask exactly when the model takes none.
    """
    spec = model.manifest.input
    if spec is None:
        raise ImageMismatch(f"{model.manifest.name} does not take an image")
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
    if spec.fixed and (height, width) != (spec.side, spec.side):
        original_size = (width, height)
        image = resized(image, spec.side, spec.side)
        if mask is not None:
            mask = np.asarray(
                Image.fromarray(mask).resize((spec.side, spec.side), Image.Resampling.NEAREST)
            )
        height = width = spec.side
    alpha = upload.alpha
    if alpha is not None and alpha.shape != (height * spec.factor, width * spec.factor):
        alpha = resized(alpha[..., None], width * spec.factor, height * spec.factor)[..., 0]
    tiling = plan_tiles(spec, height, width)
    channels = model.manifest.image.channels
    return Translation(spec, channels, tiling, image, mask, alpha, original_size)


def plan_tiles(spec: ImageInput, height: int, width: int) -> Tiling:
    """Return the tiling of an image of ``height × width`` pixels."""
    step, least = spec.multiple, spec.least or spec.multiple
    if spec.fixed:
        return plan(height, width, side=spec.side, overlap=0, multiple=step, scale=spec.factor)
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


def digest_of(upload: DecodedImage) -> str:
    """Return the SHA-256 of a decoded image: of its size, pixels and alpha."""
    height, width = upload.pixels.shape[:2]
    digest = hashlib.sha256(f"{width}×{height}".encode())
    digest.update(np.ascontiguousarray(upload.pixels).data)
    if upload.alpha is not None:
        digest.update(np.ascontiguousarray(upload.alpha).data)
    return digest.hexdigest()


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
