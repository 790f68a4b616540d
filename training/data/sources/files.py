"""Image files in a folder or in a ZIP archive, with one folder per class."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from PIL import Image

from training.data.sources.source import DataError, decode

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
# Folder names of each split.
SPLIT_FOLDERS = {"train": ("train", "training"), "test": ("test", "val", "valid", "validation")}


class _ImageTree:
    """The images of a file tree: optional split folders, then one folder per class.

    Without subfolders, or if some images lie outside of them, there are no classes.
    """

    def __init__(self, location: Path, files: Sequence[str], split: str) -> None:
        """Select the images of `split` from the paths `files`. Raises DataError if none exist."""
        images = sorted(f for f in files if _is_image(PurePosixPath(f)))
        depth = _common_depth(images)
        folders_at_depth = {
            parts[depth] for f in images if len(parts := PurePosixPath(f).parts) > depth + 1
        }
        split_names = {name for names in SPLIT_FOLDERS.values() for name in names}
        if splits := split_names & folders_at_depth:
            matching = [name for name in SPLIT_FOLDERS.get(split, (split,)) if name in splits]
            if not matching:
                raise DataError(
                    f"{location} has no split {split!r}; available: {', '.join(sorted(splits))}"
                )
            images = [f for f in images if PurePosixPath(f).parts[depth] == matching[0]]
            depth += 1
        if not images:
            suffixes = " ".join(sorted(IMAGE_SUFFIXES))
            raise DataError(f"{location} contains no images ({suffixes})")
        self.names: Sequence[str] = images
        folders = [PurePosixPath(f).parts[depth:-1] for f in images]
        self.class_names: Sequence[str] = sorted({f[0] for f in folders if f})
        self.labels: Sequence[int] | None = None
        if self.class_names and all(folders):
            index = {name: i for i, name in enumerate(self.class_names)}
            self.labels = [index[f[0]] for f in folders]
        else:
            self.class_names = []


def _is_image(path: PurePosixPath) -> bool:
    """Return whether a path has an image suffix and is not a hidden or system file."""
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return path.suffix.lower() in IMAGE_SUFFIXES and not hidden


def _common_depth(images: Sequence[str]) -> int:
    """Return the number of leading folders that contain everything, such as an archive's root.

    A folder that contains images directly is a class and is not skipped.
    """
    parents = [PurePosixPath(f).parts[:-1] for f in images]
    depth = 0
    while parents and all(len(p) > depth + 1 for p in parents):
        if len({p[depth] for p in parents}) > 1:
            break
        depth += 1
    return depth


class FolderSource(_ImageTree):
    """The images of a folder, at any depth; the first level of subfolders are the classes."""

    def __init__(self, folder: Path, split: str) -> None:
        """List the images. Raises DataError if there are none."""
        self._folder = folder
        files = [f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file()]
        super().__init__(folder, files, split)

    def file(self, index: int) -> bytes:
        return (self._folder / self.names[index]).read_bytes()

    def read(self, index: int) -> Image.Image:
        return decode(self.file(index))


class ZipSource(_ImageTree):
    """The images of a ZIP archive, with the same layout as a folder."""

    def __init__(self, path: Path, split: str) -> None:
        """List the images. Raises DataError if there are none."""
        self._archive = zipfile.ZipFile(path)
        super().__init__(path, self._archive.namelist(), split)

    def file(self, index: int) -> bytes:
        try:
            return self._archive.read(self.names[index])
        except zipfile.BadZipFile as error:
            raise OSError(str(error)) from error

    def read(self, index: int) -> Image.Image:
        return decode(self.file(index))
