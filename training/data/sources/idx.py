"""MNIST's IDX format: one file of images, one of labels, gzipped or not.

Format: http://yann.lecun.com/exdb/mnist/ (a magic number, then big-endian dimensions).
"""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.data.sources.source import DataError, select_classes

# Words in the file names of each split: MNIST's are `train-…` and `t10k-…`, EMNIST's
# `emnist-balanced-train-…` and `emnist-balanced-test-…`.
_SPLIT_WORDS = {"train": ("train",), "test": ("t10k", "test")}
_IMAGES = re.compile(r"(.*)images[-.]idx(\d)[-.]ubyte(\.gz)?")
# The magic number's third byte 8 means unsigned bytes; its last byte is the number of dimensions.
_BYTES_MAGIC = 0x0800


class IDXSource:
    """Grayscale images of IDX files; classes are named by their numbers."""

    def __init__(self, path: Path, split: str | None, classes: Sequence[str] | None) -> None:
        """Read a file of images, or the files of a folder, with their labels.

        Raises DataError if they are missing, corrupt or inconsistent.
        """
        folder = path if path.is_dir() else path.parent
        images = _find_images(folder, split) if path.is_dir() else path
        self._pixels = _read_idx(images, dimensions=3)
        if not len(self._pixels):
            raise DataError(f"{images} contains no images")
        prefix = images.name.partition("images")[0].rstrip("-.") or images.stem
        notes: list[str] = []
        self.splits: Mapping[str, int] = {
            other.name.partition("images")[0].rstrip("-."): 1 for other in _image_files(folder)
        }
        self.ignored: Mapping[str, str] = {}
        self.names: Sequence[str] = [f"{prefix}[{i}]" for i in range(len(self._pixels))]
        self.labels: Sequence[int] | None = None
        self.class_names: Sequence[str] = []
        labels = _labels_file(images)
        if labels is None:
            notes.append(f"no classes, because {images.name} has no file of labels")
        elif classes is None or classes:
            values = _read_idx(labels, dimensions=1)
            if len(values) != len(self._pixels):
                raise DataError(
                    f"{folder}: {len(self._pixels)} images in {images.name}, but {len(values)} "
                    f"labels in {labels.name}"
                )
            self.labels = [int(label) for label in values]
            self.class_names = [str(i) for i in range(1 + max(self.labels))]
        self.notes: Sequence[str] = notes
        if classes and self.labels is not None:
            rows, self.labels = select_classes(self.labels, self.class_names, classes)
            self._pixels, self.class_names = self._pixels[rows], list(classes)
            self.names = [self.names[row] for row in rows]

    @staticmethod
    def recognizes(path: Path) -> bool:
        """Return whether `path` is an IDX file of images, or a folder that contains one."""
        if path.is_dir():
            return bool(_image_files(path))
        return _IMAGES.fullmatch(path.name) is not None

    def read(self, index: int) -> Image.Image:
        return Image.fromarray(self._pixels[index])

    def file(self, index: int) -> bytes | None:  # noqa: ARG002 - no image has a file of its own
        return None


def _image_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if _IMAGES.fullmatch(file.name))


def _find_images(folder: Path, split: str | None) -> Path:
    """Return the file with the images of a split; a single file has no splits."""
    files = _image_files(folder)
    words = _SPLIT_WORDS.get(split or "train", (split or "train",))
    matching = [file for file in files if any(word in file.name for word in words)]
    if not matching and not (len(files) == 1 and split is None):
        names = ", ".join(file.name for file in files)
        raise DataError(f"{folder} has no split {split or 'train'!r}; its files are: {names}")
    # The uncompressed file first, if both exist.
    return min(matching or files, key=lambda file: (file.suffix == ".gz", file.name))


def _labels_file(images: Path) -> Path | None:
    name = images.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
    for candidate in (name, f"{name}.gz"):
        if (path := images.with_name(candidate)).exists():
            return path
    return None


def _read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        magic, *shape = struct.unpack_from(f">{1 + dimensions}I", raw)
        values = np.frombuffer(raw, np.uint8, offset=4 * (1 + dimensions))
    except (OSError, EOFError, zlib.error, struct.error, ValueError) as error:
        raise DataError(f"{path} is corrupt: {error}") from error
    if magic != _BYTES_MAGIC + dimensions or values.size != np.prod(shape):
        raise DataError(f"{path} is not an IDX file of bytes with {dimensions} dimensions")
    return values.reshape(shape)
