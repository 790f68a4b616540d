"""Image files in a folder, a ZIP archive or a tar archive, such as WebDataset shards."""

from __future__ import annotations

import csv
import io
import json
import posixpath
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from service.runtime.images.decoding import ImageDecodeError, ImageErrorKind
from training.data.sources.containers import File, list_files
from training.data.sources.layout import layout_of
from training.data.sources.source import DataError, decode

# A class by name or by number.
ClassLabel = str | int

# Formats that Pillow recognizes but only decodes with an external program, or not at all.
_NOT_DECODED = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"})
# Enough for the header of every format; more is read where the size follows a long block.
_HEAD_BYTES = 4096
_DATASET_JSON = "dataset.json"
_METADATA = ("metadata.jsonl", "metadata.csv")
# What `ganymede sample` writes besides images. `job.json` identifies its folders.
_JOB = "job.json"
_JOB_FILES = ("summary.json", "contact-sheet.png", "contact-sheet.webp", "contact-sheet.jpg")
_SIDECARS = (".cls", ".json", ".txt")
_CLASS_FIELDS = ("class", "label", "class_name", "cls")


class FileSource:
    """The images of a file tree, recognized by content where the suffix is not an image's.

    Classes are, in this order: the folders `classes`, if given; the labels of NVIDIA's
    `dataset.json`; those of `metadata.jsonl` or `metadata.csv`; those of WebDataset's files beside
    each image (`.cls`, `.json`); the class folders.
    """

    def __init__(self, location: Path, split: str | None, classes: Sequence[str] | None) -> None:
        """List the images. Raises DataError if there are none."""
        listing = list_files(location)
        self._ignored: dict[str, str] = dict(listing.ignored)
        self._notes: list[str] = [
            f"the folder {folder} is empty" for folder in listing.empty_folders
        ]
        images, metadata, sidecars = self._sort_files(listing.files)
        if not images:
            reasons = _summary(self._ignored)
            raise DataError(f"{location} contains no images{f' ({reasons})' if reasons else ''}")
        labels: Sequence[ClassLabel | None] | None = None
        names: Sequence[str] = ()
        if classes is None:
            labels, names = self._labels(images, metadata, sidecars)
        layout = layout_of(
            str(location), [file.path for file in images], split, classes if labels is None else ()
        )
        self._ignored |= layout.ignored
        self._notes += layout.notes
        self.ignored: Mapping[str, str] = self._ignored
        self.notes: Sequence[str] = self._notes
        self.splits = layout.splits
        self._files = [images[row] for row in layout.rows]
        self.names: Sequence[str] = [file.name for file in self._files]
        self.class_names, self.labels = layout.class_names, layout.labels
        if labels is not None:
            self.class_names, self.labels = _numbered([labels[row] for row in layout.rows], names)

    def file(self, index: int) -> bytes:
        data = self._files[index].read(None)
        if not data:
            raise ImageDecodeError(ImageErrorKind.NOT_AN_IMAGE, "The file is empty.")
        return data

    def read(self, index: int) -> Image.Image:
        return decode(self.file(index))

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
            if any(part.startswith(".") or part == "__MACOSX" for part in file.path.split("/")):
                self._ignored[file.name] = "is a hidden file"
            elif name in (_DATASET_JSON, *_METADATA):
                metadata[file.path] = file
            elif folder in jobs and name in (_JOB, *_JOB_FILES):
                self._ignored[file.name] = "was written by ganymede sample and is not data"
            elif _is_image(file):
                images.append(file)
            else:
                others.append(file)
        keys = {_key(file.path) for file in images}
        sidecars: dict[str, list[File]] = {}
        for file in others:
            key = _key(file.path)
            if key in keys and posixpath.splitext(file.path)[1].lower() in _SIDECARS:
                sidecars.setdefault(key, []).append(file)
            else:
                self._ignored[file.name] = "is not an image"
        return images, metadata, sidecars

    def _labels(
        self,
        images: Sequence[File],
        metadata: Mapping[str, File],
        sidecars: Mapping[str, Sequence[File]],
    ) -> tuple[Sequence[ClassLabel | None] | None, Sequence[str]]:
        """Return the label of each image and the names of numbered classes; None without labels."""
        readers: list[Callable[[], tuple[str, dict[str, ClassLabel], Sequence[str]]]] = [
            lambda: _dataset_json(metadata),
            lambda: ("the metadata files", _metadata_labels(metadata), ()),
            lambda: ("the files beside the images", _sidecar_labels(images, sidecars), ()),
        ]
        for read in readers:
            origin, by_path, names = read()
            if not by_path:
                continue
            labels = [by_path.get(file.path) for file in images]
            missing = [
                file.name for file, label in zip(images, labels, strict=True) if label is None
            ]
            if len(missing) == len(images):
                self._notes.append(f"{origin} name no image that exists")
                continue
            if missing:
                self._notes.append(
                    f"no classes, because {origin} give none for {missing[0]}"
                    + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
                )
                # The class folders do not count either: they would contradict the labels.
                return [None] * len(images), ()
            return labels, names
        return None, ()


@cache
def image_suffixes() -> frozenset[str]:
    """Return the suffixes of the formats that Pillow and its installed plug-ins can decode."""
    Image.init()
    return frozenset(
        suffix
        for suffix, name in Image.registered_extensions().items()
        if name in Image.OPEN and name not in _NOT_DECODED
    )


def _is_image(file: File) -> bool:
    if posixpath.splitext(file.path)[1].lower() in image_suffixes():
        return True
    try:
        head = file.read(_HEAD_BYTES)
    except OSError:
        return False
    return _looks_like_image(head)


def _looks_like_image(head: bytes) -> bool:
    """Return whether Pillow recognizes the beginning of a file by its content."""
    image_suffixes()
    formats = [name for name in Image.OPEN if name not in _NOT_DECODED and _accepts(name, head)]
    if not formats:
        return False
    try:
        with Image.open(io.BytesIO(head), formats=formats):
            return True
    except Exception:  # noqa: BLE001 - decoders raise whatever they like
        # The header may be longer than what was read; what cannot be decoded is reported later.
        return any(name in ("AVIF", "HEIF", "JPEG", "PNG", "TIFF", "WEBP") for name in formats)


def _accepts(name: str, head: bytes) -> bool:
    """Return whether Pillow's decoder `name` recognizes the first bytes of a file."""
    _, accept = Image.OPEN[name]
    try:
        # Some return a reason for not decoding the file, as text.
        return accept is not None and accept(head[:16]) is True
    except Exception:  # noqa: BLE001 - some expect more bytes than a short file has
        return False


def _key(path: str) -> str:
    """Return WebDataset's key of a file: its path up to the first dot of its name."""
    folder, name = posixpath.split(path)
    return f"{folder}/{name.split('.', 1)[0]}"


def _dataset_json(
    metadata: Mapping[str, File],
) -> tuple[str, dict[str, ClassLabel], Sequence[str]]:
    """Read the labels of `dataset.json`, as NVIDIA's dataset tool for StyleGAN writes it."""
    labels: dict[str, ClassLabel] = {}
    names: Sequence[str] = ()
    for path, file in metadata.items():
        if posixpath.basename(path) != _DATASET_JSON:
            continue
        try:
            document = json.loads(file.read(None))
            entries = document.get("labels") or []
            folder = posixpath.dirname(path)
            for name, label in entries.items() if isinstance(entries, dict) else entries:
                if isinstance(label, bool) or not isinstance(label, int) or label < 0:
                    raise DataError(f"{file.name}: the label of {name} is {label!r}, not a class")
                labels[posixpath.join(folder, str(name).replace("\\", "/"))] = label
            names = [str(name) for name in document.get("class_names") or ()]
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise DataError(f"{file.name} cannot be read: {error}") from error
    return _DATASET_JSON, labels, names


def _metadata_labels(metadata: Mapping[str, File]) -> dict[str, ClassLabel]:
    """Read `metadata.jsonl` or `metadata.csv`: lines with `file_name` and a class."""
    labels: dict[str, ClassLabel] = {}
    for path, file in metadata.items():
        if posixpath.basename(path) not in _METADATA:
            continue
        try:
            text = file.read(None).decode("utf-8-sig")
            lines: Any = (
                csv.DictReader(io.StringIO(text))
                if path.endswith(".csv")
                else map(json.loads, filter(str.strip, text.splitlines()))
            )
            folder = posixpath.dirname(path)
            for line in lines:
                name, label = line.get("file_name"), _label_of(line)
                if name is not None and label is not None:
                    labels[posixpath.join(folder, str(name).replace("\\", "/"))] = label
        except (OSError, ValueError, AttributeError, csv.Error) as error:
            raise DataError(f"{file.name} cannot be read: {error}") from error
    return labels


def _sidecar_labels(
    images: Sequence[File], sidecars: Mapping[str, Sequence[File]]
) -> dict[str, ClassLabel]:
    """Read the classes in WebDataset's files beside each image."""
    labels: dict[str, ClassLabel] = {}
    for image in images:
        for file in sidecars.get(_key(image.path), ()):
            suffix = posixpath.splitext(file.path)[1].lower()
            try:
                text = file.read(None).decode() if suffix in (".cls", ".json") else ""
                label: ClassLabel | None = None
                if suffix == ".cls":
                    label = int(text) if text.strip().isdecimal() else text.strip() or None
                elif suffix == ".json":
                    label = _label_of(json.loads(text))
            except (OSError, ValueError) as error:
                raise DataError(f"{file.name} cannot be read: {error}") from error
            if label is not None:
                labels[image.path] = label
                break
    return labels


def _label_of(fields: Any) -> ClassLabel | None:
    """Return the class in the fields of an image; None if there is none, or a blend of classes."""
    if not isinstance(fields, Mapping):
        return None
    for name in _CLASS_FIELDS:
        value = fields.get(name)
        if isinstance(value, str) and value:
            return int(value) if value.isdecimal() else value
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
    return None


def _numbered(
    labels: Sequence[ClassLabel | None], names: Sequence[str]
) -> tuple[Sequence[str], Sequence[int] | None]:
    """Return the class names, and the index of each label; no classes if a label is missing."""
    present = [label for label in labels if label is not None]
    if len(present) < len(labels) or not present:
        return (), None
    if all(isinstance(label, int) for label in present):
        numbers = [int(label) for label in present]
        count = max(len(names), 1 + max(numbers))
        return [names[i] if i < len(names) else str(i) for i in range(count)], numbers
    texts = [str(label) for label in present]
    found = sorted(set(texts))
    index = {name: i for i, name in enumerate(found)}
    return found, [index[text] for text in texts]


def _summary(ignored: Mapping[str, str]) -> str:
    """Return how many files were ignored for which reason, in a few words."""
    counts: dict[str, int] = {}
    for reason in ignored.values():
        counts[reason] = counts.get(reason, 0) + 1
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return "; ".join(f"{count}: {reason}" for reason, count in ordered[:3])
