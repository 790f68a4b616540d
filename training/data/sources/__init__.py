"""Image sources: IDX files, folders, ZIP archives, and Hugging Face data sets."""

from __future__ import annotations

import zipfile
from pathlib import Path

from training.data.sources.files import FolderSource, ZipSource
from training.data.sources.hugging_face import HuggingFaceSource
from training.data.sources.idx import IDXSource
from training.data.sources.source import DataError, ImageSource, SourceSubset, name_hash, stem

__all__ = ["DataError", "ImageSource", "SourceSubset", "name_hash", "open_source", "stem"]


def open_source(path: Path | str, split: str) -> ImageSource:
    """Open the images at `path`: a folder, a ZIP archive, or ``hub:owner/name``.

    Raises DataError if there are no readable images.
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
    if IDXSource.recognizes(path):
        return IDXSource(path, split)
    if HuggingFaceSource.recognizes(path):
        return HuggingFaceSource.from_disk(path, split)
    return FolderSource(path, split)
