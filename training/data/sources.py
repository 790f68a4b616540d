"""Image sources: IDX files, folders, ZIP archives, Hugging Face data sets.

A source is a list of named pictures that are read one at a time. What a name stands for may turn
out to be corrupt: `read` raises, and whoever prepares the data names it, counts it and goes on.
"""

from __future__ import annotations

import gzip
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.runtime.errors import UserError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
# The folders that data sets use for their splits, beside their usual other spellings.
SPLIT_FOLDERS = {"train": ("train", "training"), "test": ("test", "val", "valid", "validation")}
IDX_PREFIXES = {"train": "train", "test": "t10k"}


class DataError(UserError):
    """The data cannot be had or read; the message is one line that says what to do."""


class ImageSource(Protocol):
    """Pictures by position."""

    names: Sequence[str]
    labels: Sequence[int] | None
    class_names: Sequence[str]

    def read(self, index: int) -> Image.Image:
        """Decode picture `index` whole. Raises OSError or ValueError when it is corrupt."""


def open_source(path: Path | str, split: str) -> ImageSource:
    """Open whatever image data `path` holds.

    `hub:owner/name` is a data set of the Hugging Face hub. Raises DataError when nothing there
    can be read as pictures.
    """
    if str(path).startswith("hub:"):
        return HuggingFaceSource.from_hub(str(path).removeprefix("hub:"), split)
    path = Path(path)
    if not path.exists():
        raise DataError(f"no such file or folder: {path}")
    if path.is_file():
        if zipfile.is_zipfile(path):
            return ZipSource(path, split)
        raise DataError(f"{path} is neither a folder nor a ZIP archive")
    if any(path.glob("*-images-idx3-ubyte*")):
        return IDXSource(path, split)
    if HuggingFaceSource.recognises(path):
        return HuggingFaceSource.from_disk(path, split)
    return FolderSource(path, split)


class SourceSubset:
    """Some of a source's pictures, with or without their classes."""

    def __init__(self, source: ImageSource, rows: Sequence[int], *, with_classes: bool) -> None:
        """Keep the pictures at `rows`. Raises DataError where there are none."""
        if not rows:
            raise DataError("no picture is left of what the recipe chooses from the data")
        self._source, self._rows = source, rows
        self.names: Sequence[str] = [source.names[row] for row in rows]
        self.labels: Sequence[int] | None = None
        self.class_names: Sequence[str] = []
        if with_classes and source.labels is not None:
            self.labels = [source.labels[row] for row in rows]
            self.class_names = source.class_names

    def read(self, index: int) -> Image.Image:
        return self._source.read(self._rows[index])


def stem(name: str) -> str:
    """Return what two pictures that belong together have in common: the file's name alone."""
    return PurePosixPath(name).stem


def name_hash(name: str) -> int:
    """Return a number drawn by a picture's name, whatever its folder and its format."""
    return zlib.crc32(stem(name).encode())


class IDXSource:
    """MNIST's format: one file of pictures, one of labels, gzipped or not.

    Format: http://yann.lecun.com/exdb/mnist/ (magic number, then big-endian dimensions).
    """

    def __init__(self, folder: Path, split: str) -> None:
        prefix = IDX_PREFIXES.get(split, split)
        self._pixels = _read_idx(folder, f"{prefix}-images-idx3-ubyte", dimensions=3)
        labels = _read_idx(folder, f"{prefix}-labels-idx1-ubyte", dimensions=1)
        if not len(self._pixels):
            raise DataError(f"{folder} holds no pictures")
        if len(labels) != len(self._pixels):
            raise DataError(f"{folder}: {len(self._pixels)} pictures but {len(labels)} labels")
        self.names: Sequence[str] = [f"{prefix}[{i}]" for i in range(len(self._pixels))]
        self.labels: Sequence[int] | None = [int(label) for label in labels]
        self.class_names: Sequence[str] = [str(i) for i in range(1 + max(self.labels, default=-1))]

    def read(self, index: int) -> Image.Image:
        return Image.fromarray(self._pixels[index])


def _read_idx(folder: Path, stem: str, dimensions: int) -> NDArray[np.uint8]:
    for path in (folder / stem, folder / f"{stem}.gz"):
        if not path.exists():
            continue
        try:
            raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            magic, *shape = struct.unpack_from(f">{1 + dimensions}I", raw)
            values = np.frombuffer(raw, np.uint8, offset=4 * (1 + dimensions))
        except (OSError, EOFError, zlib.error, struct.error, ValueError) as error:
            raise DataError(f"{path} is corrupt: {error}") from error
        if magic != 0x0800 + dimensions or values.size != np.prod(shape):
            raise DataError(f"{path} is not an IDX file of bytes in {dimensions} dimensions")
        return values.reshape(shape)
    raise DataError(f"{folder} has no {stem} or {stem}.gz")


class _FileSource:
    """Files in a tree: a folder a class; without sub-folders there are no classes."""

    def __init__(self, where: Path, files: Sequence[str], split: str) -> None:
        pictures = sorted(f for f in files if _is_picture(PurePosixPath(f)))
        depth = _common_depth(pictures)
        tops = {parts[depth] for f in pictures if len(parts := PurePosixPath(f).parts) > depth + 1}
        if known := {name for names in SPLIT_FOLDERS.values() for name in names} & tops:
            wanted = [name for name in SPLIT_FOLDERS.get(split, (split,)) if name in known]
            if not wanted:
                raise DataError(
                    f"{where} has no split {split!r}; it has: {', '.join(sorted(known))}"
                )
            pictures = [f for f in pictures if PurePosixPath(f).parts[depth] == wanted[0]]
            depth += 1
        if not pictures:
            kinds = " ".join(sorted(IMAGE_SUFFIXES))
            raise DataError(f"{where} holds no pictures ({kinds})")
        self.names: Sequence[str] = pictures
        folders = [PurePosixPath(f).parts[depth:-1] for f in pictures]
        self.class_names: Sequence[str] = sorted({f[0] for f in folders if f})
        self.labels: Sequence[int] | None = None
        if self.class_names and all(folders):
            index = {name: i for i, name in enumerate(self.class_names)}
            self.labels = [index[f[0]] for f in folders]
        else:
            self.class_names = []


def _is_picture(path: PurePosixPath) -> bool:
    """Whether a file is a picture by its name, and not what a system hides beside pictures."""
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return path.suffix.lower() in IMAGE_SUFFIXES and not hidden


def _common_depth(pictures: Sequence[str]) -> int:
    """How many folders to step into before the classes or splits: those that hold all the rest.

    An archive often has one root folder. One that holds pictures itself is a class, though.
    """
    parents = [PurePosixPath(f).parts[:-1] for f in pictures]
    depth = 0
    while parents and all(len(p) > depth + 1 for p in parents):
        if len({p[depth] for p in parents}) > 1:
            break
        depth += 1
    return depth


class FolderSource(_FileSource):
    """A folder of pictures, at any depth; the first level of sub-folders are the classes."""

    def __init__(self, folder: Path, split: str) -> None:
        self._folder = folder
        files = [f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file()]
        super().__init__(folder, files, split)

    def file(self, index: int) -> bytes:
        """Return the bytes of picture `index` as they are. Raises OSError."""
        return (self._folder / self.names[index]).read_bytes()

    def read(self, index: int) -> Image.Image:
        with Image.open(self._folder / self.names[index]) as image:
            image.load()
            return image


class ZipSource(_FileSource):
    """The same tree inside a ZIP archive."""

    def __init__(self, path: Path, split: str) -> None:
        self._archive = zipfile.ZipFile(path)
        super().__init__(path, self._archive.namelist(), split)

    def file(self, index: int) -> bytes:
        """Return the bytes of picture `index` as they are. Raises OSError."""
        try:
            return self._archive.read(self.names[index])
        except zipfile.BadZipFile as error:
            raise OSError(str(error)) from error

    def read(self, index: int) -> Image.Image:
        try:
            with self._archive.open(self.names[index]) as file, Image.open(file) as image:
                image.load()
                return image
        except zipfile.BadZipFile as error:
            raise OSError(str(error)) from error


class HuggingFaceSource:
    """Any data set with a column of pictures that the `datasets` library can read."""

    def __init__(self, rows: Any, where: str) -> None:
        import datasets  # noqa: PLC0415 - optional, and slow to import

        kinds = {name: type(feature) for name, feature in rows.features.items()}
        pictures = [name for name, kind in kinds.items() if kind is datasets.Image]
        if not pictures:
            raise DataError(f"{where} has no column of pictures; it has: {', '.join(kinds)}")
        labels = [name for name, kind in kinds.items() if kind is datasets.ClassLabel]
        self._rows, self._picture = rows, pictures[0]
        self.names: Sequence[str] = [f"{where}[{i}]" for i in range(len(rows))]
        self.labels: Sequence[int] | None = list(rows[labels[0]]) if labels else None
        self.class_names: Sequence[str] = rows.features[labels[0]].names if labels else []

    def read(self, index: int) -> Image.Image:
        image: Image.Image = self._rows[index][self._picture]
        return image

    @staticmethod
    def recognises(folder: Path) -> bool:
        """Whether the folder is one that `save_to_disk` wrote, or holds Parquet or Arrow files."""
        marks = ("dataset_info.json", "dataset_dict.json", "*.parquet", "data/*.parquet", "*.arrow")
        return any(any(folder.glob(mark)) for mark in marks)

    @classmethod
    def from_disk(cls, folder: Path, split: str) -> HuggingFaceSource:
        """Read a folder of `save_to_disk`, or of Parquet or Arrow files."""
        saved = (folder / "dataset_info.json").exists() or (folder / "dataset_dict.json").exists()
        if saved:
            rows = _with_datasets(lambda d: d.load_from_disk(str(folder)), str(folder))
            if hasattr(rows, "keys"):
                if split not in rows:
                    raise DataError(
                        f"{folder} has no split {split!r}; it has: {', '.join(sorted(rows))}"
                    )
                rows = rows[split]
        else:
            rows = _with_datasets(lambda d: d.load_dataset(str(folder), split=split), str(folder))
        return cls(rows, str(folder))

    @classmethod
    def from_hub(cls, name: str, split: str) -> HuggingFaceSource:
        """Fetch a data set of the hub, or take the copy that an earlier run fetched."""
        return cls(_with_datasets(lambda d: d.load_dataset(name, split=split), f"hub:{name}"), name)


def _with_datasets(load: Any, where: str) -> Any:
    try:
        import datasets  # noqa: PLC0415 - optional, and slow to import
    except ImportError as error:
        raise DataError(
            f"{where} needs the datasets library: pip install 'ganymede[hub]'"
        ) from error
    try:
        return load(datasets)
    except Exception as error:
        raise DataError(f"{where} cannot be loaded: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
