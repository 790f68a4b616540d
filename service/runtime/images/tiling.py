"""Runs large images through a fully convolutional model tile by tile.

`service/runtime/image_to_image.py` chooses the tile size and the overlap.

A model sees one tile at a time, so the memory is bounded by the size of a tile. Neighboring tiles
overlap, and outputs near an inner edge are discarded, because they lack context: every output pixel
comes from tiles whose inner edges are at least `reach` pixels away, where `reach` is the radius of
the receptive field in input pixels. The result then equals a single run on the whole image, also at
its borders. This does not hold for models that depend on the whole image, such as those with
instance normalization or attention; there, overlaps only hide the seams.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
# One length for both axes, or (vertical, horizontal).
Lengths = int | tuple[int, int]
_Values = TypeVar("_Values", bound=np.generic)

# Number of rows or columns that are blended in one step, which bounds the memory for float values.
_LINES = 16


@dataclass(frozen=True)
class Tiling:
    """A grid of tiles over an image, created by `plan`. All sizes except `scale` are input pixels.

    `tops` and `lefts` are the coordinates of the grid; tiles are in row-major order. All tiles have
    the same `shape` (h, w), so that they can be rows of one batch. The last tiles may extend over
    the lower and right border of the image up to the next multiple.
    """

    height: int
    width: int
    side: Lengths
    overlap: Lengths
    multiple: int
    scale: int
    reach: int
    shape: tuple[int, int]
    tops: tuple[int, ...]
    lefts: tuple[int, ...]

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self.tops) * len(self.lefts)

    @property
    def boxes(self) -> list[tuple[int, int]]:
        """The (top, left) of every tile."""
        return [(top, left) for top in self.tops for left in self.lefts]


def plan(
    height: int,
    width: int,
    *,
    side: Lengths,
    overlap: Lengths,
    multiple: int = 1,
    scale: int = 1,
    reach: int = 0,
    least: Lengths = 1,
) -> Tiling:
    """Cover an image with as few tiles of at most `side` × `side` pixels as possible.

    Neighboring tiles share at least `overlap` pixels. Tiles start and end at multiples of
    `multiple`, so that the downsampling of a model that halves its input n times (`multiple` =
    2**n) uses the same grid as without tiles. An image that fits is one tile, padded to the
    multiple and to the minimum side `least`. If `least` equals `side`, all tiles have this size, as
    a graph of fixed size needs it. The output of the model is `scale` times as large as its input;
    `reach` is the radius of its receptive field.

    Raises ValueError for sizes that are not positive, for a `side` that is not a multiple, not
    larger than the overlap or below `least`, and for an `overlap` below ``2 * reach``.
    """
    sides, overlaps, minima = _both(side), _both(overlap), _both(least)
    if min(height, width, *sides, multiple, scale, *minima) < 1 or min(*overlaps, reach) < 0:
        raise ValueError("sizes and scale must be positive, overlap and reach non-negative")
    if min(overlaps) < 2 * reach:
        raise ValueError(
            f"an overlap of {overlap} is less than twice the receptive field radius of {reach}"
        )
    minima = (_round_up(minima[0], multiple), _round_up(minima[1], multiple))
    for longest, shared, shortest in zip(sides, overlaps, minima, strict=True):
        if longest % multiple or longest <= _round_up(shared, multiple) or longest < shortest:
            raise ValueError(
                f"a side of {longest} is not a multiple of {multiple}, less than {shortest}, or "
                f"not larger than the overlap of {shared} rounded up to a multiple"
            )
    h, tops = _along(height, sides[0], overlaps[0], multiple, minima[0])
    w, lefts = _along(width, sides[1], overlaps[1], multiple, minima[1])
    return Tiling(height, width, side, overlap, multiple, scale, reach, (h, w), tops, lefts)


def cut(image: NDArray[_Values], tiling: Tiling, indices: Iterable[int]) -> NDArray[_Values]:
    """Return the tiles ``[N, h, w, C]`` of an image ``[H, W, C]`` with the given indices.

    Beyond the lower and right border the image is reflected, or, if it is smaller than the padding,
    its last row or column is repeated.
    """
    if image.shape[:2] != (tiling.height, tiling.width):
        raise ValueError(
            f"an image of {image.shape[0]} × {image.shape[1]} does not fit a tiling of "
            f"{tiling.height} × {tiling.width}"
        )
    h, w = tiling.shape
    columns = len(tiling.lefts)
    positions = [divmod(index, columns) for index in indices]
    tiles = np.empty((len(positions), h, w, *image.shape[2:]), image.dtype)
    for tile, (row, column) in zip(tiles, positions, strict=True):
        rows = _reflected(tiling.tops[row], h, tiling.height)
        across = _reflected(tiling.lefts[column], w, tiling.width)
        tile[...] = image[rows][:, across]
    return tiles


class Canvas:
    """Assembles output tiles into one image.

    Holds the image ``[H * scale, W * scale, C] uint8`` and one row of tiles. In an overlap, tiles
    are blended linearly where both are at least `reach` away from their inner edges.
    """

    def __init__(self, tiling: Tiling, channels: int) -> None:
        self._tiling = tiling
        self._next = 0
        height, width = tiling.height * tiling.scale, tiling.width * tiling.scale
        self._image = np.empty((height, width, channels), np.uint8)
        # The current row of tiles; if there is only one row, the image itself.
        self._band = self._image
        if len(tiling.tops) > 1:
            self._band = np.empty((tiling.shape[0] * tiling.scale, width, channels), np.uint8)

    @property
    def next(self) -> int:
        """The index of the next tile."""
        return self._next

    def put(self, index: int, tile: Pixels) -> None:
        """Add the tile ``[h * scale, w * scale, C]`` with `index`. Tiles are added in order.

        Raises ValueError for a tile that is not the next one or has another shape.
        """
        tiling = self._tiling
        h, w = (length * tiling.scale for length in tiling.shape)
        expected = (h, w, self._image.shape[2])
        if index != self._next or index >= len(tiling):
            raise ValueError(f"expected tile {self._next} of {len(tiling)}, got tile {index}")
        if tile.shape != expected or tile.dtype != np.uint8:
            raise ValueError(f"expected a tile of {expected} uint8, got {tile.shape} {tile.dtype}")
        self._next += 1
        row, column = divmod(index, len(tiling.lefts))
        _blend(
            self._band.swapaxes(0, 1),
            tile[: len(self._band)].swapaxes(0, 1),
            tiling.lefts,
            column,
            tiling,
        )
        if self._band is not self._image and column == len(tiling.lefts) - 1:
            _blend(self._image, self._band, tiling.tops, row, tiling)

    def image(self) -> Pixels:
        """Return the image ``[H * scale, W * scale, C]`` without copying.

        Raises ValueError if tiles are missing.
        """
        if self._next < len(self._tiling):
            raise ValueError(f"only {self._next} of {len(self._tiling)} tiles were added")
        return self._image


def _blend(
    onto: Pixels, piece: Pixels, starts: tuple[int, ...], index: int, tiling: Tiling
) -> None:
    """Add the piece with `index` along the first axis, blending it with the previous one."""
    scale, reach = tiling.scale, tiling.reach * tiling.scale
    start = starts[index] * scale
    end = min(start + len(piece), len(onto))
    if index == 0:
        onto[:end] = piece[:end]
        return
    # The new piece is valid at and after `fade`, the previous piece before `before`.
    fade = start + reach
    before = starts[index - 1] * scale + len(piece) - reach
    lines = np.arange(fade, before, dtype=np.float32)
    weight = ((lines - fade + 0.5) / np.float32(before - fade or 1))[:, None, None]
    for first in range(fade, min(before, end), _LINES):
        last = min(first + _LINES, before, end)
        old = onto[first:last].astype(np.float32)
        new = piece[first - start : last - start] - old
        new *= weight[first - fade : last - fade]
        new += old
        onto[first:last] = np.rint(new, out=new)
    onto[min(before, end) : end] = piece[min(before, end) - start : end - start]


def _along(
    length: int, side: int, overlap: int, multiple: int, least: int
) -> tuple[int, tuple[int, ...]]:
    """Return the length of the tiles along one axis, and their start positions."""
    padded = _round_up(length, multiple)
    if padded <= side:
        return max(padded, least), (0,)
    shared = _round_up(overlap, multiple)
    count = -(-(padded - shared) // (side - shared))
    # With this number of tiles they may be shorter than the maximum.
    tile = max(_round_up(-(-(padded + (count - 1) * shared) // count), multiple), least)
    steps = (padded - tile) // multiple
    return tile, tuple(i * steps // (count - 1) * multiple for i in range(count))


def _both(lengths: Lengths) -> tuple[int, int]:
    return (lengths, lengths) if isinstance(lengths, int) else lengths


def _round_up(length: int, multiple: int) -> int:
    """Round up to a multiple."""
    return -(-length // multiple) * multiple


def _reflected(start: int, length: int, size: int) -> slice[Any, Any, Any] | NDArray[np.intp]:
    """Return the indices of the lines of a tile, reflected at the end of the image."""
    missing = start + length - size
    if missing <= 0:
        return slice(start, start + length)
    lines = np.arange(start, start + length)
    last = size - 1
    return np.minimum(lines, 2 * last - lines if missing < size else last)
