"""The interface of image sources, and the matching of images by file name."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Protocol

from PIL import Image

from service.runtime.errors import UserError
from service.runtime.images.decoding import decode_image


class DataError(UserError):
    """Training data are missing or unreadable. The message is one line and says how to fix it."""


class MissingSplit(DataError):
    """The data have splits, but not the requested one. `available` are their names."""

    def __init__(self, location: str, split: str | None, available: Iterable[str]) -> None:
        self.available = sorted(available)
        super().__init__(
            f"{location} has no split {split or 'train'!r}; available: {', '.join(self.available)}"
        )


class ImageSource(Protocol):
    """A list of named images that are decoded one at a time.

    An entry may be corrupt: `read` raises, and the caller skips the image and reports its name.

    Attributes:
        labels: indices into `class_names`, or None for images without classes.
        splits: number of images (or of files that hold images) by split; empty without splits.
        ignored: what was left out, with the reason.
        notes: what was decided about splits and classes and may surprise, one line each.
    """

    names: Sequence[str]
    labels: Sequence[int] | None
    class_names: Sequence[str]
    splits: Mapping[str, int]
    ignored: Mapping[str, str]
    notes: Sequence[str]

    def read(self, index: int) -> Image.Image:
        """Decode image `index`: upright, sRGB, mode L, RGB or RGBA.

        Raises ImageDecodeError, OSError or ValueError if the image is corrupt.
        """

    def file(self, index: int) -> bytes | None:
        """Return the original file of image `index`, or None if the source has no image files.

        Raises OSError.
        """


class SourceSubset:
    """A selection of another source's images, optionally without their classes."""

    def __init__(
        self, source: ImageSource, rows: Sequence[int], *, with_classes: bool, note: str = ""
    ) -> None:
        """Select the images at `rows`, and add `note` to the notes.

        Raises DataError if there are none.
        """
        if not rows:
            raise DataError(
                "no image matches the recipe's selection (data.only, data.hold_out, data.half)"
            )
        self._source, self._rows = source, rows
        self.splits, self.ignored = source.splits, source.ignored
        self.notes = [*source.notes, note] if note else source.notes
        self.names: Sequence[str] = [source.names[row] for row in rows]
        self.labels: Sequence[int] | None = None
        self.class_names: Sequence[str] = []
        if with_classes and source.labels is not None:
            self.labels = [source.labels[row] for row in rows]
            self.class_names = source.class_names

    def read(self, index: int) -> Image.Image:
        return self._source.read(self._rows[index])

    def file(self, index: int) -> bytes | None:
        return self._source.file(self._rows[index])


# Key in `info` of an image whose range of values was inferred.
SCALED = "ganymede_scaled"
# Pillow's modes of gray images.
_GRAY_MODES = ("1", "L", "I", "I;16", "I;16B", "F")


def decode(data: bytes) -> Image.Image:
    """Decode an image file of any format that Pillow reads: upright, sRGB, mode L, RGB or RGBA.

    Returns the first frame of an animation. `info[SCALED]` is True if the file does not define the
    range of its values, such as floats, so that it was inferred. Raises ImageDecodeError.
    """
    decoded = decode_image(data, max_pixels=None, animated="first", formats=None)
    image = decoded.to_pil()
    with Image.open(io.BytesIO(data)) as file:
        is_gray = file.mode in _GRAY_MODES
    if is_gray and image.mode == "RGB":
        image = image.convert("L")
    if decoded.scaled:
        image.info[SCALED] = True
    return image


def select_classes(
    labels: Sequence[int], class_names: Sequence[str], classes: Sequence[str]
) -> tuple[list[int], list[int]]:
    """Return the rows whose class is in `classes`, and their indices into it.

    Raises DataError if there is no such class.
    """
    if unknown := [name for name in classes if name not in class_names]:
        available = ", ".join(class_names) or "none"
        raise DataError(f"data.classes: no class {unknown[0]!r}; available: {available}")
    wanted = {class_names.index(name): i for i, name in enumerate(classes)}
    rows = [row for row, label in enumerate(labels) if label in wanted]
    return rows, [wanted[labels[row]] for row in rows]


def stem(name: str) -> str:
    """Return the file name without folder and suffix; paired images have the same stem."""
    return PurePosixPath(name).stem


def name_hash(name: str) -> int:
    """Return a hash of the file name, independent of its folder and suffix."""
    return zlib.crc32(stem(name).encode())
