"""MNIST's IDX format: one file of images, one of labels, gzipped or not.

Format: http://yann.lecun.com/exdb/mnist/ (a magic number, then big-endian dimensions).
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.data.sources.source import DataError

# The file name prefix of each split.
_PREFIXES = {"train": "train", "test": "t10k"}
# The magic number's third byte 8 means unsigned bytes; its last byte is the number of dimensions.
_BYTES_MAGIC = 0x0800


class IDXSource:
    """Grayscale images of a folder with IDX files; classes are named by their numbers."""

    def __init__(self, folder: Path, split: str) -> None:
        """Read both files. Raises DataError if they are missing, corrupt or inconsistent."""
        prefix = _PREFIXES.get(split, split)
        self._pixels = _read_idx(folder, f"{prefix}-images-idx3-ubyte", dimensions=3)
        labels = _read_idx(folder, f"{prefix}-labels-idx1-ubyte", dimensions=1)
        if not len(self._pixels):
            raise DataError(f"{folder} contains no images")
        if len(labels) != len(self._pixels):
            raise DataError(f"{folder}: {len(self._pixels)} images but {len(labels)} labels")
        self.names: Sequence[str] = [f"{prefix}[{i}]" for i in range(len(self._pixels))]
        self.labels: Sequence[int] | None = [int(label) for label in labels]
        self.class_names: Sequence[str] = [str(i) for i in range(1 + max(self.labels, default=-1))]

    @staticmethod
    def recognizes(folder: Path) -> bool:
        """Return whether the folder contains IDX files of images."""
        return any(folder.glob("*-images-idx3-ubyte*"))

    def read(self, index: int) -> Image.Image:
        return Image.fromarray(self._pixels[index])

    def file(self, index: int) -> bytes | None:  # noqa: ARG002 - no image has a file of its own
        return None


def _read_idx(folder: Path, name: str, dimensions: int) -> NDArray[np.uint8]:
    for path in (folder / name, folder / f"{name}.gz"):
        if not path.exists():
            continue
        try:
            raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            magic, *shape = struct.unpack_from(f">{1 + dimensions}I", raw)
            values = np.frombuffer(raw, np.uint8, offset=4 * (1 + dimensions))
        except (OSError, EOFError, zlib.error, struct.error, ValueError) as error:
            raise DataError(f"{path} is corrupt: {error}") from error
        if magic != _BYTES_MAGIC + dimensions or values.size != np.prod(shape):
            raise DataError(f"{path} is not an IDX file of bytes with {dimensions} dimensions")
        return values.reshape(shape)
    raise DataError(f"{folder} has no {name} or {name}.gz")
