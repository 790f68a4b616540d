"""Image sources: folders, archives, WebDataset, Parquet, IDX and Hugging Face data sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from training.data.sources.containers import archive_kind
from training.data.sources.files import FileSource
from training.data.sources.hugging_face import HuggingFaceSource
from training.data.sources.idx import IDXSource
from training.data.sources.layout import find_split
from training.data.sources.media import IMAGES, SOUNDS, Media
from training.data.sources.parquet import ParquetSource
from training.data.sources.source import (
    DataError,
    ImageSource,
    MissingSplit,
    SourceSubset,
    name_hash,
    stem,
)

__all__ = [
    "DataError",
    "ImageSource",
    "MissingSplit",
    "SourceSubset",
    "hold_sounds",
    "name_hash",
    "open_source",
    "open_splits",
    "stem",
]


def open_source(
    path: Path | str,
    split: str | None = None,
    classes: Sequence[str] | None = None,
    media: Media = IMAGES,
) -> ImageSource:
    """Open the images at `path`: a folder, an archive, a file, or ``hub:owner/name``.

    With another `media`, opens files of this kind, in a folder or an archive.

    `split` None is the training split of data with splits. `classes` are the classes to read, and
    an empty sequence reads the images without classes; None finds the classes in the data. Raises
    DataError if there are no readable images.
    """
    if media is not IMAGES:
        return _open_files(path, split, classes, media)
    if str(path).startswith("hub:"):
        return HuggingFaceSource.from_hub(str(path).removeprefix("hub:"), split, classes)
    path = Path(path).expanduser()
    if not path.exists():
        raise DataError(f"no such file or folder: {path}")
    if IDXSource.recognizes(path):
        return IDXSource(path, split, classes)
    if path.is_dir() and HuggingFaceSource.recognizes(path):
        return HuggingFaceSource.from_disk(path, split, classes)
    if ParquetSource.recognizes(path):
        return ParquetSource(path, split, classes)
    if path.is_file() and not path.stat().st_size:
        raise DataError(f"{path} is empty")
    if path.suffix.lower() in (".npy", ".npz"):
        raise DataError(f"{path} holds NumPy arrays, which are not read: save PNG or IDX files")
    if path.is_file() and archive_kind(path) is None:
        if path.suffix.lower() in (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz"):
            raise DataError(f"{path} is damaged, or is no archive")
        raise DataError(
            f"{path} is neither a folder nor a data file "
            "(ZIP, tar, WebDataset, Parquet, IDX or Hugging Face data set)"
        )
    return FileSource(path, split, classes)


def _open_files(
    path: Path | str, split: str | None, classes: Sequence[str] | None, media: Media
) -> ImageSource:
    if str(path).startswith("hub:"):
        raise DataError(f"{path}: {media.noun}s are read from a folder or an archive, not the hub")
    path = Path(path).expanduser()
    if not path.exists():
        raise DataError(f"no such file or folder: {path}")
    return FileSource(path, split, classes, media)


def open_splits(
    path: Path | str,
    split: str | None = None,
    classes: Sequence[str] | None = None,
    media: Media = IMAGES,
) -> dict[str, ImageSource]:
    """Open every split of the data at `path`, or only `split`, the training split first.

    The key of data without splits is "". Raises DataError, as `open_source` does.
    """
    try:
        first = open_source(path, split, classes, media)
    except MissingSplit as error:
        if split is not None or not error.available:
            raise
        return {name: open_source(path, name, classes, media) for name in error.available}
    if split is not None or not first.splits:
        return {split or "": first}
    training = find_split("train", first.splits)
    names = sorted(first.splits, key=lambda name: (name != training, name))
    return {
        name: first if name == training else open_source(path, name, classes, media)
        for name in names
    }


def hold_sounds(path: Path | str) -> bool:
    """Return whether the data at `path` are sounds without images."""
    if str(path).startswith("hub:") or not Path(path).expanduser().exists():
        return False
    try:
        open_source(path)
    except MissingSplit:
        return False
    except DataError:
        try:
            open_source(path, media=SOUNDS)
        except MissingSplit:
            return True
        except DataError:
            return False
        return True
    return False
