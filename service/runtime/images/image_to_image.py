"""A picture through a model that makes pictures of pictures, whatever its size.

A picture becomes rows of one shape: itself, or tiles of it that are laid over each other again.
Who runs the rows, and how many at a time, is up to the caller: a service by its scheduler, a batch
job in its own threads.
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

# The side of a tile, in pixels that are made, and the least that goes in: what one run holds in
# memory is some hundred times as many numbers.
TILE_SIDE = 512
LEAST_TILE_SIDE = 192
# Where all of a picture has a part in all of it, tiles are this much larger and share a quarter.
_WHOLE = 2
# The highest value of a mask that leaves a pixel as it is.
_KNOWN = 127


class ImageMismatch(ValueError):
    """A mask or a picture does not fit; the message says why."""


@dataclass(frozen=True)
class Translation:
    """One picture on its way through a model.

    `image` ``[H, W, C]`` and `mask` ``[H, W]`` are what goes in, and `alpha` ``[h, w]`` what is put
    to what comes out, in the size of that. `resized` is the size, width before height, that a
    picture had before it was brought to the only one that the model takes.
    """

    given: ImageInput
    channels: int
    tiling: Tiling
    image: Pixels
    mask: Pixels | None
    alpha: Pixels | None
    resized: tuple[int, int] | None = None

    def feeds(self, indices: Sequence[int]) -> Mapping[str, Array]:
        """Return the rows of some of the tiles."""
        rows = {"image": cut(self.image, self.tiling, indices)}
        if self.mask is not None:
            rows["mask"] = cut(self.mask[..., None], self.tiling, indices)[..., 0]
        return rows

    @cached_property
    def rows(self) -> tuple[int, ...]:
        """The tiles that are run, at least one: what has no hole to be filled stays as it is."""
        every = tuple(range(len(self.tiling)))
        if self.mask is None or self.image.shape[2] != self.channels:
            return every
        holed = (self.mask > _KNOWN)[..., None]
        return (
            tuple(index for index in every if cut(holed, self.tiling, [index]).any()) or every[:1]
        )

    @property
    def tile_pixels(self) -> int:
        """Pixels that come out of one row."""
        return math.prod(self.tiling.shape) * self.given.factor**2

    @property
    def made_pixels(self) -> int:
        """Pixels of the picture that comes out."""
        return self.tiling.height * self.tiling.width * self.given.factor**2

    def canvas(self) -> Canvas:
        """Return what the rows that come out are laid on, in their order."""
        return Canvas(self.tiling, self.channels)

    def lay(self, canvas: Canvas, indices: Sequence[int], made: Pixels) -> None:
        """Lay rows ``[N, h, w, C]`` that came out on a canvas, the next ones of `rows`, and between
        them the tiles that were not run.
        """
        for index, tile in zip(indices, made, strict=True):
            self._keep(canvas, index)
            canvas.put(index, tile)
        if indices[-1] == self.rows[-1]:
            self._keep(canvas, len(self.tiling))

    def _keep(self, canvas: Canvas, end: int) -> None:
        while canvas.next < end:
            (known,) = cut(self.image, self.tiling, [canvas.next])
            canvas.put(canvas.next, known)

    def finished(self, made: Pixels) -> Pixels:
        """Return the picture ``[H, W, C]`` with its alpha."""
        if self.alpha is None or made.shape[2] == 4:
            return made
        colour = made if made.shape[2] == 3 else made.repeat(3, 2)
        return np.concatenate([colour, self.alpha[..., None]], 2)


def prepare(model: Model, upload: DecodedImage, mask: Pixels | None = None) -> Translation:
    """Return what a model is given of a picture and, where it takes one, its mask ``[H, W]``.

    Raises ImageMismatch for a mask of another size, one that is missing, or one too many.
    """
    given = model.manifest.input
    if given is None:
        raise ImageMismatch(f"{model.manifest.name} takes no pictures")
    image = _in_channels(upload, given.channels)
    height, width = image.shape[:2]
    if given.masked != (mask is not None):
        wanted = "needs a mask" if given.masked else "takes no mask"
        raise ImageMismatch(f"{model.manifest.name} {wanted}")
    if mask is not None and mask.shape != (height, width):
        raise ImageMismatch(
            f"the mask is {mask.shape[1]}×{mask.shape[0]}, and its picture {width}×{height}"
        )
    before = None
    if given.fixed and (height, width) != (given.side, given.side):
        before = (width, height)
        image = resized(image, given.side, given.side)
        if mask is not None:
            mask = np.asarray(
                Image.fromarray(mask).resize((given.side, given.side), Image.Resampling.NEAREST)
            )
        height = width = given.side
    alpha = upload.alpha
    if alpha is not None and alpha.shape != (height * given.factor, width * given.factor):
        alpha = resized(alpha[..., None], width * given.factor, height * given.factor)[..., 0]
    tiling = tiling_of(given, height, width)
    channels = model.manifest.image.channels
    return Translation(given, channels, tiling, image, mask, alpha, before)


def tiling_of(given: ImageInput, height: int, width: int) -> Tiling:
    """Return how a picture of that size is cut."""
    step, least = given.multiple, given.least or given.multiple
    if given.fixed:
        return plan(height, width, side=given.side, overlap=0, multiple=step, scale=given.factor)
    side = max(TILE_SIDE // given.factor, LEAST_TILE_SIDE)
    if given.reach is None:
        side *= _WHOLE
        overlap, reach = side // 4, 0
    else:
        # The ramp between two tiles is as wide as what both know for certain.
        reach = given.reach
        overlap = 2 * reach + max(step, 16 // given.factor)
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
        scale=given.factor,
        least=least,
    )


def digest_of(upload: DecodedImage) -> str:
    """Return the SHA-256 of a picture as it was understood: of its size, its pixels and alpha."""
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
        grey: Pixels = np.asarray(to_image(upload.pixels).convert("L"))[..., None]
        return grey
    return upload.pixels
