"""Classes of images from files: NVIDIA's `dataset.json`, tables, and WebDataset's files."""

from __future__ import annotations

import csv
import io
import json
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from training.data.sources.containers import File
from training.data.sources.source import DataError

# A class by name or by number.
ClassLabel = str | int

DATASET_JSON = "dataset.json"
# Tables of file names and classes.
TABLES = tuple(
    f"{name}.{suffix}"
    for name in ("metadata", "labels", "annotations")
    for suffix in ("jsonl", "csv", "tsv")
)
# Columns of images and of classes, in the order of preference.
IMAGE_COLUMNS = ("image", "img", "jpg", "png", "webp", "picture", "photo", "bytes", "content")
LABEL_COLUMNS = ("label", "labels", "class", "cls", "class_name", "category", "fine_label")
SIDECARS = (".cls", ".json", ".txt")
# Larger numbers are identifiers, not classes.
_MAX_CLASSES = 100_000
_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")
_NEGATIVE = re.compile(r"-[0-9]+(\.[0-9]+)?")
_FILE_FIELDS = ("file_name", "filename", "file", "image", "image_path", "path", "img", "name", "id")
CLASS_FIELDS = ("class", "label", "class_name", "cls", "category", "target", "label_name")


@dataclass(frozen=True)
class Labels:
    """Classes that were found in files, by the name or the path of the image.

    Attributes:
        origin: what they were read from, for messages.
        classes: an empty mapping if the files have no classes.
        class_names: names of numbered classes.
        is_final: whether the class folders do not count either if there are no classes.
        notes: what was left out and why.
    """

    origin: str
    classes: Mapping[str, ClassLabel]
    class_names: Sequence[str] = ()
    is_final: bool = False
    notes: Sequence[str] = field(default=())

    def of(self, images: Sequence[File]) -> list[ClassLabel | None]:
        """Return the class of each image, or None for an image without a class.

        If no name fits, images are found by their file names without folders, then also without
        suffixes, where these are unique.
        """
        exact = [self.classes.get(file.name, self.classes.get(file.path)) for file in images]
        if not self.classes or any(label is not None for label in exact):
            return exact
        for short in (posixpath.basename, _stem):
            names = [short(file.path) for file in images]
            classes = {short(name): label for name, label in self.classes.items()}
            if len(set(names)) < len(names) or len(classes) < len(self.classes):
                continue
            found = [classes.get(name) for name in names]
            if any(label is not None for label in found):
                return found
        return exact

    def missing(self, images: Sequence[File]) -> list[str]:
        """Return the names of images that have a class and do not exist."""
        names = {file.name for file in images} | {file.path for file in images}
        return [name for name in self.classes if name not in names]


def dataset_json(metadata: Mapping[str, File]) -> Labels:
    """Read the labels of `dataset.json`, as NVIDIA's dataset tool for StyleGAN writes it.

    A label is the number of a class, or a one-hot vector. Raises DataError.
    """
    classes: dict[str, ClassLabel] = {}
    conflicts: dict[str, tuple[ClassLabel, ClassLabel]] = {}
    names: Sequence[str] = ()
    notes: list[str] = []
    found = False
    for file in metadata.values():
        if posixpath.basename(file.path) != DATASET_JSON:
            continue
        try:
            document = json.loads(file.read(None))
            if not isinstance(document, dict):
                raise DataError(f"{file.name} is not a JSON object")
            if "labels" not in document:
                notes.append(f"{file.name} has no labels in the format of NVIDIA's dataset tool")
                continue
            found = True
            entries = document["labels"] or []
            names = [str(name) for name in document.get("class_names") or ()] or names
            for name, label in entries.items() if isinstance(entries, dict) else entries:
                number = _one_hot(label) if isinstance(label, list) else _class_number(label)
                if number is None and isinstance(label, list):
                    notes.append(f"no classes, because {file.name} holds vectors, not classes")
                    return Labels(DATASET_JSON, {}, (), is_final=True, notes=notes)
                if number is None:
                    raise DataError(f"{file.name}: the label of {name} is {label!r}, not a class")
                image = _path(file, name)
                if classes.get(image, number) != number:
                    conflicts[image] = (classes[image], number)
                classes[image] = number
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise DataError(f"{file.name} cannot be read: {error}") from error
    notes += _conflict_notes(conflicts)
    return Labels(DATASET_JSON, classes, names, found, notes)


def table_labels(metadata: Mapping[str, File]) -> Labels:
    """Read `metadata.jsonl`, `metadata.csv` and the like: lines with a file name and a class.

    Raises DataError.
    """
    classes: dict[str, ClassLabel] = {}
    conflicts: dict[str, tuple[ClassLabel, ClassLabel]] = {}
    unusable: list[tuple[str, tuple[str, str]]] = []
    notes: list[str] = []
    for file in metadata.values():
        if not is_table(file):
            continue
        lines, column = _table(file)
        if lines and column is None:
            notes.append(
                f"{file.name} has no column file_name and is not read; its columns are: "
                f"{', '.join(lines[0])}"
            )
        lines = [_with_class(file, line, column) for line in lines]
        if lines and column is not None and _is_of_classes(file) and not _has_class(lines[0]):
            notes.append(
                f"{file.name} has no column class and is not read; its columns are: "
                f"{', '.join(lines[0])}"
            )
        for line in lines:
            name, label = line.get(column or ""), label_of(line)
            if name is None:
                continue
            image = _path(file, name)
            if label is None:
                kind = _unusable_label(line)
                unusable += [] if kind is None else [(image, kind)]
                continue
            if classes.get(image, label) != label:
                conflicts[image] = (classes[image], label)
            classes[image] = label
    notes += [*_unusable_notes(unusable), *_conflict_notes(conflicts)]
    return Labels("the metadata files", classes, notes=notes)


def table_lines(file: File) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the path of the image of each line of a table, and its fields by lower-case name.

    The path is relative to all data. Raises DataError.
    """
    lines, column = _table(file)
    return [(_path(file, line[column]), line) for line in lines if column and line.get(column)]


def _table(file: File) -> tuple[list[dict[str, Any]], str | None]:
    """Return the lines of a table, and the name of the column of images, if it has one.

    Raises DataError.
    """
    try:
        lines = [
            {str(key).strip().casefold(): value for key, value in line.items()}
            for line in _lines(file)
        ]
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file.name} cannot be read, because it is not UTF-8 text; save it as UTF-8"
        ) from error
    except (OSError, ValueError, AttributeError, csv.Error) as error:
        raise DataError(f"{file.name} cannot be read: {error}") from error
    column = next((name for name in _FILE_FIELDS if lines and name in lines[0]), None)
    if lines and column is None and {"shard", "member"} <= lines[0].keys():
        # WebDataset shards of `ganymede sample`.
        column = "file_name"
        lines = [{**line, column: f"{line['shard']}/{line['member']}"} for line in lines]
    return lines, column


def is_table(file: File) -> bool:
    """Return whether a file is a table of file names and classes; case does not matter."""
    return posixpath.basename(file.path).lower() in TABLES


def sidecar_labels(images: Sequence[File], sidecars: Mapping[str, Sequence[File]]) -> Labels:
    """Read the classes in WebDataset's files beside each image. Raises DataError."""
    classes: dict[str, ClassLabel] = {}
    unusable: list[tuple[str, tuple[str, str]]] = []
    no_text: list[str] = []
    for image in images:
        for file in sidecars.get(webdataset_key(image.name), ()):
            suffix = posixpath.splitext(file.path)[1].lower()
            try:
                text = file.read(None).decode() if suffix in (".cls", ".json") else ""
                label: ClassLabel | None = None
                if suffix == ".cls":
                    label = _label_of_text(text)
                elif suffix == ".json":
                    fields = json.loads(text)
                    label, kind = label_of(fields), _unusable_label(fields)
                    if label is None and kind is not None:
                        unusable.append((file.name, kind))
            except UnicodeDecodeError:
                no_text.append(file.name)
                continue
            except (OSError, ValueError) as error:
                raise DataError(f"{file.name} cannot be read: {error}") from error
            if label is not None:
                classes[image.name] = label
                break
    notes = _unusable_notes(unusable)
    if no_text:
        notes.append(f"not UTF-8 and read as no class: {_first(no_text)}")
    return Labels("the files beside the images", classes, notes=notes)


def keys_with_several_images(
    images: Sequence[File], sidecars: Mapping[str, Sequence[File]]
) -> list[str]:
    """Return a note about WebDataset keys that have several images, such as an image and a mask."""
    by_key: dict[str, list[str]] = {}
    for image in images:
        if (key := webdataset_key(image.name)) in sidecars:
            by_key.setdefault(key, []).append(image.name)
    several = [names for names in by_key.values() if len(names) > 1]
    if not several:
        return []
    more = f", and {len(several) - 1:,} more keys have several" if len(several) > 1 else ""
    return [f"{' and '.join(several[0][:3])} have one key and are all read{more}"]


def webdataset_key(name: str) -> str:
    """Return WebDataset's key of a file: its name up to the first dot after the folder."""
    folder, name = posixpath.split(name)
    return f"{folder}/{name.split('.', 1)[0]}"


def label_of(fields: Any) -> ClassLabel | None:
    """Return the class in the fields of an image; None if there is none, or a blend of classes."""
    if not isinstance(fields, Mapping):
        return None
    for name in CLASS_FIELDS:
        value = fields.get(name)
        label = _label_of_text(value) if isinstance(value, str) else _class_number(value)
        if label is not None:
            return label
    return None


def _label_of_text(text: str) -> ClassLabel | None:
    """Return the number or the name in a text; None for an empty text and a negative number."""
    text = text.strip()
    if not text or _NEGATIVE.fullmatch(text):
        return None
    # Leading zeros are part of a name, such as 007.
    return int(text) if _NUMBER.fullmatch(text) else text


def _unusable_label(fields: Any) -> tuple[str, str] | None:
    """Return the first class field whose value cannot be a class, and the kind of the value.

    Empty values and negative numbers mean that there is no class.
    """
    if not isinstance(fields, Mapping):
        return None
    for name in CLASS_FIELDS:
        value = fields.get(name)
        if isinstance(value, bool):
            return name, "true or false"
        if isinstance(value, list):
            return name, "a list"
        if isinstance(value, Mapping):
            return name, "an object"
        if isinstance(value, float) and value >= 0 and not value.is_integer():
            return name, "a number with a fraction"
    return None


def _unusable_notes(found: Sequence[tuple[str, tuple[str, str]]]) -> list[str]:
    """Return a note for each field and kind of value in pairs of an image and these two."""
    images: dict[tuple[str, str], list[str]] = {}
    for image, unusable in found:
        images.setdefault(unusable, []).append(image)
    return [
        f"the field {name} of {_first(names)} is {kind}, which is no class"
        for (name, kind), names in images.items()
    ]


def _conflict_notes(conflicts: Mapping[str, tuple[ClassLabel, ClassLabel]]) -> list[str]:
    """Return a note about images that are listed with different classes."""
    if not conflicts:
        return []
    first, last = next(iter(conflicts.values()))
    classes = f"{first} and {last}" if len(conflicts) == 1 else "different classes"
    return [f"{_first(list(conflicts))}: listed with {classes}; the last class is used"]


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
    return f"{names[0]}{more}"


def numbered(
    labels: Sequence[ClassLabel | None], names: Sequence[str]
) -> tuple[list[str], list[int]]:
    """Return the class names, and the index of each label; -1 for a missing one.

    `names` are the names of numbered classes.
    """
    present = [label for label in labels if label is not None]
    if all(isinstance(label, int) for label in present):
        numbers = [-1 if label is None else int(label) for label in labels]
        count = max(len(names), 1 + max(numbers, default=-1))
        if count > _MAX_CLASSES:
            present_numbers = sorted(set(numbers) - {-1})
            index_of = {number: i for i, number in enumerate(present_numbers)}
            return [str(number) for number in present_numbers], [
                index_of.get(number, -1) for number in numbers
            ]
        return [names[i] if i < len(names) else str(i) for i in range(count)], numbers
    found = sorted({str(label) for label in present})
    index = {name: i for i, name in enumerate(found)}
    return found, [-1 if label is None else index[str(label)] for label in labels]


def column_classes(
    values: Sequence[Any], names: Sequence[str]
) -> tuple[list[str], list[int] | None, list[str]]:
    """Return the class names, the index of each row and notes, from a column of a table.

    A missing value or a negative number means that a row has no class; then no row has one.
    """
    labels: list[ClassLabel | None] = [
        None if value is None or (isinstance(value, int) and value < 0) else value
        for value in values
    ]
    missing = [row for row, label in enumerate(labels) if label is None]
    if missing:
        more = f" and {len(missing) - 1:,} more" if len(missing) > 1 else ""
        return [], None, [f"no classes, because row {missing[0]}{more} has none"]
    class_names, indices = numbered(labels, names)
    return class_names, indices, []


def choose_column(found: Sequence[str], preferred: Sequence[str]) -> tuple[str, list[str]]:
    """Return the first column by preference or by position, and a note about the others."""
    chosen = next((name for name in preferred if name in found), found[0])
    others = [name for name in found if name != chosen]
    if not others:
        return chosen, []
    return chosen, [f"the images are those of the column {chosen}; not read: {', '.join(others)}"]


def _one_hot(vector: list[Any]) -> int | None:
    """Return the number of the class in a one-hot vector; None for other vectors."""
    if vector.count(1) == 1 and vector.count(0) == len(vector) - 1:
        return vector.index(1)
    return None


def _class_number(label: Any) -> int | None:
    """Return the number of a class, also of an integral float; None for other values."""
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    if isinstance(label, bool) or not isinstance(label, int) or label < 0:
        return None
    return label


def _path(file: File, name: object) -> str:
    """Return the path of an image that a metadata file names, relative to all data.

    In an archive, the name of the archive is part of it: other archives may have equal members.
    """
    folder = posixpath.dirname(file.name)
    return posixpath.normpath(posixpath.join(folder, str(name).replace("\\", "/")))


def _has_class(line: Mapping[str, Any]) -> bool:
    return any(name in line for name in CLASS_FIELDS)


def _is_of_classes(file: File) -> bool:
    """Return whether a table exists for its classes, and not for captions."""
    return posixpath.basename(file.path).lower().startswith("labels.")


def _with_class(file: File, line: dict[str, Any], column: str | None) -> dict[str, Any]:
    """Name the class in a line of a `labels` table that has only one more column."""
    others = [name for name in line if name != column]
    if column is None or len(others) != 1 or not _is_of_classes(file):
        return line
    return {column: line[column], "class": line[others[0]]}


def _lines(file: File) -> Sequence[Mapping[str, Any]]:
    data = file.read(None)
    # Excel's "Unicode text" is UTF-16.
    text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    if file.path.lower().endswith(".jsonl"):
        # Not `splitlines`: JSON texts may contain other line separators, such as U+2028.
        lines = [json.loads(line) for line in text.split("\n") if line.strip()]
        if not all(isinstance(line, Mapping) for line in lines):
            raise ValueError("a line is not a JSON object")
        return lines
    # Spreadsheets in some languages separate columns by semicolons.
    first = text.partition("\n")[0]
    delimiter = max("\t;,", key=first.count)
    return list(csv.DictReader(io.StringIO(text), delimiter=delimiter))


def _stem(path: str) -> str:
    return posixpath.splitext(posixpath.basename(path))[0]
