"""Image or sound files in a folder, a ZIP archive or a tar archive, such as WebDataset shards."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from PIL import Image

from service.runtime.images.decoding import ImageDecodeError, ImageErrorKind
from training.data.sources.containers import File, is_hidden, list_files
from training.data.sources.labels import (
    DATASET_JSON,
    SIDECARS,
    ClassLabel,
    Labels,
    dataset_json,
    is_table,
    keys_with_several_images,
    numbered,
    sidecar_labels,
    table_labels,
    webdataset_key,
)
from training.data.sources.layout import is_split_name, layout_of, listed, splits_of_files
from training.data.sources.media import IMAGES, Media
from training.data.sources.source import DataError, decode, select_classes

# Folders without images that get a line each.
_MAX_LINES = 5
# The record of `ganymede data --out`.
PREPARATION_JSON = "preparation.json"
# What `ganymede sample` writes besides images. `job.json` identifies its folders.
_JOB = "job.json"
_JOB_FILES = ("summary.json", "contact-sheet.png", "contact-sheet.webp", "contact-sheet.jpg")


class FileSource:
    """The files of one kind in a file tree, recognized by content where the suffix is another.

    The comments speak of images, which are the default; the rules are the same for sounds.

    Classes are, in this order: the labels of NVIDIA's `dataset.json`; those of `metadata.jsonl` or
    `metadata.csv`; those of WebDataset's files beside each image (`.cls`, `.json`); the class
    folders. `classes` selects some of them.
    """

    def __init__(
        self,
        location: Path,
        split: str | None,
        classes: Sequence[str] | None,
        media: Media = IMAGES,
    ) -> None:
        """List the files of `media`. Raises DataError if there are none."""
        self._media = media
        listing = list_files(location)
        self._ignored: dict[str, str] = dict(listing.ignored)
        images, metadata, sidecars = self._sort_files(listing.files)
        self._notes: list[str] = _lines(listing.empty_folders, "is empty", "are empty")
        barren = _folders_without_images(images, self._others)
        self._notes += _lines(barren, f"contains no {media.noun}", f"contain no {media.noun}")
        self._notes += keys_with_several_images(images, sidecars)
        if not images:
            reasons = _summary(self._ignored)
            raise DataError(
                f"{location} contains no {media.noun}s{f' ({reasons})' if reasons else ''}"
            )
        labels: Sequence[ClassLabel | None] | None = None
        names: Sequence[str] = ()
        origin = ""
        if classes is None or classes:
            labels, names, origin = self._labels(images, metadata, sidecars)
        if classes and labels is not None and not set(classes) <= {*names, *map(str, labels)}:
            # They are the names of folders, or of nothing.
            labels = None
        paths = self._paths(images)
        layout = layout_of(str(location), paths, split, classes if labels is None else ())
        names_by_path = {path: file.name for path, file in zip(paths, images, strict=True)}
        self._ignored |= {names_by_path[path]: why for path, why in layout.ignored.items()}
        self._notes += layout.notes
        self.ignored: Mapping[str, str] = self._ignored
        self.notes: Sequence[str] = self._notes
        self.splits = layout.splits
        self._files = [images[row] for row in layout.rows]
        self.names: Sequence[str] = [file.name for file in self._files]
        self.class_names, self.labels = layout.class_names, layout.labels
        if classes is None and labels is None and self.labels is None:
            self._note_archives(images)
        if labels is not None:
            self._number(labels, layout.rows, names, origin)
            if classes and self.labels is not None:
                self._select(classes)

    def _number(
        self,
        labels: Sequence[ClassLabel | None],
        rows: Sequence[int],
        names: Sequence[str],
        origin: str,
    ) -> None:
        """Set the classes of the selected images, if all of them have one."""
        missing = [self.names[i] for i, row in enumerate(rows) if labels[row] is None]
        if missing and origin:
            # The class folders do not count either: they would contradict the labels.
            more = f" and {len(missing) - 1:,} more have" if len(missing) > 1 else " has"
            self._notes.append(f"no classes, because {missing[0]}{more} no class in {origin}")
        if missing:
            return
        # Numbered over all splits, so that a class has the same number in all.
        self.class_names, by_row = numbered(labels, names)
        self.labels = [by_row[row] for row in rows]

    def _select(self, classes: Sequence[str]) -> None:
        """Keep the images of these classes, which come from labels."""
        assert self.labels is not None  # noqa: S101 - only called with labels
        rows, self.labels = select_classes(self.labels, self.class_names, classes)
        kept = set(rows)
        left_out = [name for row, name in enumerate(self.names) if row not in kept]
        self._ignored |= dict.fromkeys(left_out, "is in none of data.classes")
        self._files = [self._files[row] for row in rows]
        self.names, self.class_names = [self.names[row] for row in rows], list(classes)

    def file(self, index: int) -> bytes:
        data = self._files[index].read(None)
        if not data:
            raise ImageDecodeError(ImageErrorKind.NOT_AN_IMAGE, "The file is empty.")
        return data

    def read(self, index: int) -> Image.Image:
        return decode(self.file(index))

    def _paths(self, images: Sequence[File]) -> list[str]:
        """Return the paths that determine splits and classes.

        ``train-00000.tar/cat/1.png`` becomes ``train/cat/1.png`` if every archive has the name of a
        split.
        """
        archives = sorted({file.archive for file in images})
        splits, notes = splits_of_files(archives) if all(archives) else ([], [])
        self._notes += notes
        if not splits:
            return [file.path for file in images]
        split_of = dict(zip(archives, splits, strict=True))
        paths = []
        for file in images:
            member = file.name.removeprefix(f"{file.archive}/")
            inside = "/" in member and is_split_name(member.split("/", 1)[0])
            paths.append(member if inside else f"{split_of[file.archive]}/{member}")
        return paths

    def _note_archives(self, images: Sequence[File]) -> None:
        """Note that the names of archives are no classes, if they differ in more than a number."""
        archives = {posixpath.basename(file.archive) for file in images}
        if len({re.sub(r"[\W\d_]+", "", name) for name in archives}) > 1 and all(archives):
            self._notes.append(
                f"no classes: the names of archives ({listed(sorted(archives))}) are none; unpack "
                "each archive into a folder of its own"
            )

    def _sort_files(
        self, files: Sequence[File]
    ) -> tuple[list[File], dict[str, File], dict[str, list[File]]]:
        """Return the images, the metadata files by path, and the files beside images by key."""
        jobs = {posixpath.dirname(f.path) for f in files if posixpath.basename(f.path) == _JOB}
        images: list[File] = []
        others: list[File] = []
        metadata: dict[str, File] = {}
        for file in files:
            folder, name = posixpath.split(file.path)
            if is_hidden(file.path):
                self._ignored[file.name] = "is a hidden file"
            elif name in (DATASET_JSON, PREPARATION_JSON) or is_table(file):
                metadata[file.name] = file
            elif folder in jobs and name in (_JOB, *_JOB_FILES):
                self._ignored[file.name] = "was written by ganymede sample and is not data"
            elif self._media.recognizes(file):
                images.append(file)
            else:
                others.append(file)
        self._others = others
        keys = {webdataset_key(file.name) for file in images}
        sidecars: dict[str, list[File]] = {}
        for file in others:
            key = webdataset_key(file.name)
            if key in keys and posixpath.splitext(file.path)[1].lower() in SIDECARS:
                sidecars.setdefault(key, []).append(file)
            else:
                self._ignored[file.name] = self._media.why_not(file)
        return images, metadata, sidecars

    def _labels(
        self,
        images: Sequence[File],
        metadata: Mapping[str, File],
        sidecars: Mapping[str, Sequence[File]],
    ) -> tuple[Sequence[ClassLabel | None] | None, Sequence[str], str]:
        """Return the label of each image, the names of numbered classes and the origin.

        The labels are None if the class folders count instead.
        """
        readers: list[Callable[[], Labels]] = [
            lambda: dataset_json(metadata),
            lambda: table_labels(metadata),
            lambda: sidecar_labels(images, sidecars),
        ]
        is_final = False
        for read in readers:
            found = read()
            self._notes += found.notes
            is_final |= found.is_final
            if not found.classes:
                continue
            labels = found.of(images)
            if all(label is None for label in labels):
                self._notes.append(f"{found.origin} name no image that exists")
                continue
            if len(found.classes) > len(images):
                absent = found.missing(images)
                more = f" and {len(absent) - 1:,} more" if len(absent) > 1 else ""
                self._notes.append(
                    f"{found.origin} name images that do not exist: {absent[0]}{more}"
                )
            return labels, found.class_names, found.origin
        return ([None] * len(images) if is_final else None), (), ""


def _folders_without_images(images: Sequence[File], others: Sequence[File]) -> list[str]:
    """Return the topmost folders that contain other files and no image."""
    with_images: set[str] = set()
    for file in images:
        folder = posixpath.dirname(file.path)
        while folder and folder not in with_images:
            with_images.add(folder)
            folder = posixpath.dirname(folder)
    found: set[str] = set()
    for file in others:
        folder, top = posixpath.dirname(file.path), ""
        while folder and folder not in with_images:
            folder, top = posixpath.dirname(folder), folder
        found |= {top} if top else set()
    return sorted(found)


def _lines(folders: Sequence[str], one: str, several: str) -> list[str]:
    if len(folders) > _MAX_LINES:
        return [f"the folders {listed(folders)} {several}"]
    return [f"the folder {folder} {one}" for folder in folders]


def _summary(ignored: Mapping[str, str]) -> str:
    """Return how many files were ignored for which reason, in a few words."""
    counts: dict[str, int] = {}
    for reason in ignored.values():
        counts[reason] = counts.get(reason, 0) + 1
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return "; ".join(f"{count}: {reason}" for reason, count in ordered[:3])
