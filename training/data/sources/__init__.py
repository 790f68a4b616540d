"""Image sources: folders, archives, WebDataset, Parquet, IDX and Hugging Face data sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from training.data.sources.containers import archive_kind
from training.data.sources.files import FileSource
from training.data.sources.hugging_face import HuggingFaceSource
from training.data.sources.idx import IDXSource
from training.data.sources.parquet import ParquetSource
from training.data.sources.source import DataError, ImageSource, SourceSubset, name_hash, stem

__all__ = ["DataError", "ImageSource", "SourceSubset", "name_hash", "open_source", "stem"]


def open_source(
    path: Path | str, split: str | None = None, classes: Sequence[str] | None = None
) -> ImageSource:
    """Open the images at `path`: a folder, an archive, a file, or ``hub:owner/name``.

    `split` None is the training split of data with splits. `classes` are the classes to read, and
    an empty sequence reads the images without classes; None finds the classes in the data. Raises
    DataError if there are no readable images.
    """
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
    if path.is_file() and archive_kind(path) is None:
        raise DataError(
            f"{path} is neither a folder nor a data file "
            "(ZIP, tar, WebDataset, Parquet, IDX or Hugging Face data set)"
        )
    return FileSource(path, split, classes)
