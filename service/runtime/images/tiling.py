"""Large pictures through a fully convolutional model, tile by tile.

A model sees one tile at a time, so memory is bounded by the tile. Neighbours overlap, and what a
tile's inner edge spoils is thrown away: with `reach` the radius, in input pixels, of what one
output pixel depends on, each output pixel comes only from tiles whose inner edges are at least
`reach` away from it. The result then equals the untiled one everywhere, at the picture's borders
too: there, a tile's edge is the picture's. Nothing of this holds for a model that looks at the
whole picture, as instance normalisation or attention does; there, overlaps only hide the seams.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
_Values = TypeVar("_Values", bound=np.generic)

# So many rows or columns are blended at a time: the floats of a whole overlap can be many.
_LINES = 16


@dataclass(frozen=True)
class Tiling:
    """How a picture is cut into tiles. All but `scale` is in input pixels; made by `plan`.

    The tiles lie in a grid, in row-major order, `tops` and `lefts` are its lines. Each has the
    same `shape` (h, w), so that they can be rows of one batch. The last ones reach over the
    picture's lower and right border as far as the next multiple.
    """

    height: int
    width: int
    side: int
    overlap: int
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
    side: int,
    overlap: int,
    multiple: int = 1,
    scale: int = 1,
    reach: int = 0,
    least: int = 1,
) -> Tiling:
    """Lay tiles of at most `side` × `side` pixels over a picture, as few as will do.

    Neighbours share `overlap` pixels or more. Tiles begin and end at multiples of `multiple`,
    where a model that halves its input n times (`multiple` = 2**n) sees the same picture as
    untiled. A picture that fits is one tile, padded up to the multiple, and to the `least` that a
    tile's sides may be. The model's output is `scale` times as large as its input; `reach` is its
    receptive field's radius.

    Raises ValueError for sizes that are not positive, a `side` that is no multiple, leaves nothing
    besides the overlap or is below the least, and an `overlap` less than ``2 * reach``.
    """
    if min(height, width, side, multiple, scale, least) < 1 or min(overlap, reach) < 0:
        raise ValueError("sizes and scale are positive, overlap and reach not negative")
    if overlap < 2 * reach:
        raise ValueError(f"an overlap of {overlap} is less than twice the reach of {reach}")
    least = _up_to(least, multiple)
    if side % multiple or side <= _up_to(overlap, multiple) or side < least:
        raise ValueError(
            f"a side of {side} is no multiple of {multiple}, less than {least}, or not more than "
            f"the overlap of {overlap} at such a multiple"
        )
    h, tops = _along(height, side, overlap, multiple, least)
    w, lefts = _along(width, side, overlap, multiple, least)
    return Tiling(height, width, side, overlap, multiple, scale, reach, (h, w), tops, lefts)


def cut(picture: NDArray[_Values], tiling: Tiling, indices: Iterable[int]) -> NDArray[_Values]:
    """Return some tiles ``[N, h, w, C]`` of a picture ``[H, W, C]``, those of `indices`.

    Beyond the picture's lower and right border it is mirrored (the border itself once), or, where
    there is less picture than is missing, its last row or column is repeated.
    """
    if picture.shape[:2] != (tiling.height, tiling.width):
        raise ValueError(
            f"a picture of {picture.shape[0]} × {picture.shape[1]} has a tiling of "
            f"{tiling.height} × {tiling.width}"
        )
    h, w = tiling.shape
    columns = len(tiling.lefts)
    places = [divmod(index, columns) for index in indices]
    tiles = np.empty((len(places), h, w, *picture.shape[2:]), picture.dtype)
    for tile, (row, column) in zip(tiles, places, strict=True):
        rows = _mirrored(tiling.tops[row], h, tiling.height)
        across = _mirrored(tiling.lefts[column], w, tiling.width)
        tile[...] = picture[rows][:, across]
    return tiles


class Canvas:
    """Puts a model's output tiles together into one picture.

    Besides the picture ``[H * scale, W * scale, C] uint8`` it holds one row of tiles, in uint8.
    In the overlaps, one tile fades into the next linearly, between the `reach` of the one and of
    the other.
    """

    def __init__(self, tiling: Tiling, channels: int) -> None:
        self._tiling = tiling
        self._next = 0
        height, width = tiling.height * tiling.scale, tiling.width * tiling.scale
        self._picture = np.empty((height, width, channels), np.uint8)
        # The row of tiles in progress; where it is the only one, the picture itself.
        self._band = self._picture
        if len(tiling.tops) > 1:
            self._band = np.empty((tiling.shape[0] * tiling.scale, width, channels), np.uint8)

    @property
    def next(self) -> int:
        """The index of the tile that comes next."""
        return self._next

    def put(self, index: int, tile: Pixels) -> None:
        """Put the tile ``[h * scale, w * scale, C]`` of `index`; tiles come in order, each once.

        Raises ValueError for a tile that is not the next one, or not of that shape.
        """
        tiling = self._tiling
        h, w = (length * tiling.scale for length in tiling.shape)
        expected = (h, w, self._picture.shape[2])
        if index != self._next or index >= len(tiling):
            raise ValueError(f"tile {index} of {len(tiling)} came when {self._next} was next")
        if tile.shape != expected or tile.dtype != np.uint8:
            raise ValueError(f"a tile is {expected} uint8, not {tile.shape} {tile.dtype}")
        self._next += 1
        row, column = divmod(index, len(tiling.lefts))
        _lay(
            self._band.swapaxes(0, 1),
            tile[: len(self._band)].swapaxes(0, 1),
            tiling.lefts,
            column,
            tiling,
        )
        if self._band is not self._picture and column == len(tiling.lefts) - 1:
            _lay(self._picture, self._band, tiling.tops, row, tiling)

    def picture(self) -> Pixels:
        """Return the picture ``[H * scale, W * scale, C]``. Raises ValueError before the last tile.

        It is not copied.
        """
        if self._next < len(self._tiling):
            raise ValueError(f"{self._next} of {len(self._tiling)} tiles are there")
        return self._picture


def _lay(onto: Pixels, piece: Pixels, starts: tuple[int, ...], which: int, tiling: Tiling) -> None:
    """Lay the `which`-th piece along the first axis onto what the ones before it have made."""
    scale, reach = tiling.scale, tiling.reach * tiling.scale
    start = starts[which] * scale
    end = min(start + len(piece), len(onto))
    if which == 0:
        onto[:end] = piece[:end]
        return
    # From here the piece is sound, and up to there what is before it.
    fade = start + reach
    before = starts[which - 1] * scale + len(piece) - reach
    lines = np.arange(fade, before, dtype=np.float32)
    share = ((lines - fade + 0.5) / np.float32(before - fade or 1))[:, None, None]
    for first in range(fade, min(before, end), _LINES):
        last = min(first + _LINES, before, end)
        old = onto[first:last].astype(np.float32)
        new = piece[first - start : last - start] - old
        new *= share[first - fade : last - fade]
        new += old
        onto[first:last] = np.rint(new, out=new)
    onto[min(before, end) : end] = piece[min(before, end) - start : end - start]


def _along(
    length: int, side: int, overlap: int, multiple: int, least: int
) -> tuple[int, tuple[int, ...]]:
    """Return the tiles' length along one axis, and where they begin."""
    whole = _up_to(length, multiple)
    if whole <= side:
        return max(whole, least), (0,)
    shared = _up_to(overlap, multiple)
    count = -(-(whole - shared) // (side - shared))
    # So many are needed; they need not be as long as they may be.
    tile = max(_up_to(-(-(whole + (count - 1) * shared) // count), multiple), least)
    steps = (whole - tile) // multiple
    return tile, tuple(i * steps // (count - 1) * multiple for i in range(count))


def _up_to(length: int, multiple: int) -> int:
    """Return the least multiple that is not less."""
    return -(-length // multiple) * multiple


def _mirrored(start: int, length: int, size: int) -> slice[Any, Any, Any] | NDArray[np.intp]:
    """Return which of `size` lines a tile of `length` takes, the picture mirrored at its end."""
    missing = start + length - size
    if missing <= 0:
        return slice(start, start + length)
    lines = np.arange(start, start + length)
    last = size - 1
    return np.minimum(lines, 2 * last - lines if missing < size else last)
