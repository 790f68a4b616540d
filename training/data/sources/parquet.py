"""Images in Parquet files: the layout of the Hugging Face hub and of `ganymede sample`."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from service.runtime.errors import first_line
from training.data.sources.labels import (
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    choose_column,
    column_classes,
)
from training.data.sources.layout import layout_of, splits_of_files
from training.data.sources.source import DataError, decode, select_classes

# Row groups that are kept in memory; images are mostly read in order.
_CACHED_GROUPS = 4


class ParquetSource:
    """The first image column of Parquet files, and their first column of classes.

    A file belongs to a split if its name starts with the split's, such as
    ``train-00000-of-00002.parquet``, or if it lies in a folder of that name.
    """

    def __init__(self, path: Path, split: str | None, classes: Sequence[str] | None) -> None:
        """List the rows of a file or of all files in a folder. Raises DataError."""
        try:
            import pyarrow.parquet as pq  # noqa: PLC0415 - optional
        except ModuleNotFoundError as error:
            raise DataError(
                f"{path} holds Parquet files, which need pyarrow: pip install 'ganymede[parquet]'"
            ) from error
        files, ignored, notes, self.splits = _select_files(path, split)
        self.ignored: Mapping[str, str] = ignored
        self.notes: Sequence[str] = notes
        self._files = []
        # First row of each row group: (file, group, first row).
        self._groups: list[tuple[int, int, int]] = []
        names: list[str] = []
        labels: list[Any] = []
        self._column = label_column = ""
        class_names: Sequence[str] = ()
        for number, file in enumerate(files):
            try:
                parquet = pq.ParquetFile(file)
                if number == 0:
                    schema = parquet.schema_arrow
                    self._column, label_column, more = _columns(schema, str(file))
                    self.notes = [*notes, *more]
                    class_names = _class_names(parquet.schema_arrow, label_column)
                for group in range(parquet.num_row_groups):
                    self._groups.append((number, group, len(names)))
                    rows = parquet.metadata.row_group(group).num_rows
                    start = len(names)
                    names += [f"{file.name}[{start + row}]" for row in range(rows)]
                    if label_column:
                        table = parquet.read_row_group(group, columns=[label_column])
                        labels += table.column(label_column).to_pylist()
            except (OSError, KeyError, ValueError) as error:
                raise DataError(f"{file} cannot be read: {first_line(error)}") from error
            self._files.append(parquet)
        if not names:
            raise DataError(f"{path} contains no images")
        self.names: Sequence[str] = names
        self._rows: Sequence[int] = range(len(names))
        self.class_names, self.labels = self._classes(labels, class_names, classes)
        self._cache: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()

    def _classes(
        self, labels: Sequence[Any], names: Sequence[str], classes: Sequence[str] | None
    ) -> tuple[Sequence[str], Sequence[int] | None]:
        if not labels or (classes is not None and not classes):
            return (), None
        names, indices, notes = column_classes(labels, names)
        self.notes = [*self.notes, *notes]
        if indices is None:
            return (), None
        if classes is None:
            return names, indices
        rows, selected = select_classes(indices, names, classes)
        left_out = [self.names[row] for row in sorted(set(self._rows) - set(rows))]
        self.ignored = {**self.ignored, **dict.fromkeys(left_out, "is in none of data.classes")}
        self._rows, self.names = rows, [self.names[row] for row in rows]
        return list(classes), selected

    def file(self, index: int) -> bytes:
        row = self._rows[index]
        number = _last_at_most(self._groups, row)
        first = self._groups[number][2]
        value = self._group(number)[row - first].as_py()
        if isinstance(value, Mapping):
            if value.get("bytes") is None:
                raise OSError(f"the row holds only the path {value.get('path')!r}")
            value = value["bytes"]
        if not isinstance(value, bytes):
            raise OSError("the row holds no image")
        return value

    def read(self, index: int) -> Image.Image:
        return decode(self.file(index))

    def _group(self, number: int) -> Any:
        with self._lock:
            if number in self._cache:
                self._cache.move_to_end(number)
                return self._cache[number]
            file, group, _ = self._groups[number]
            column = self._files[file].read_row_group(group, columns=[self._column])
            self._cache[number] = column.column(self._column)
            if len(self._cache) > _CACHED_GROUPS:
                self._cache.popitem(last=False)
            return self._cache[number]

    @staticmethod
    def recognizes(path: Path) -> bool:
        """Return whether `path` is a Parquet file, or a folder that holds some and no images."""
        if path.is_file():
            with path.open("rb") as file:
                return file.read(4) == b"PAR1"
        return any(map(_may_hold_images, [*path.glob("*.parquet"), *path.glob("*/*.parquet")]))


def _may_hold_images(path: Path) -> bool:
    """Return whether a Parquet file has a column of images, or cannot be read to find out."""
    try:
        import pyarrow.parquet as pq  # noqa: PLC0415 - optional

        return bool(_image_columns(pq.read_schema(path)))
    except (ImportError, OSError, ValueError):
        return True


def _select_files(
    path: Path, split: str | None
) -> tuple[list[Path], dict[str, str], list[str], Mapping[str, int]]:
    """Return the files of a split, what was ignored, notes, and the number of files by split."""
    if path.is_file():
        return [path], {}, [], {}
    found = sorted(file for file in path.rglob("*.parquet") if file.is_file())
    ignored = {
        file.relative_to(path).as_posix(): "lies beside Parquet files"
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.suffix != ".parquet"
    }
    relative = [file.relative_to(path).as_posix() for file in found]
    # ``data/train-00000-of-00002.parquet`` becomes ``train/…``, so that one rule finds the splits.
    split_names, notes = splits_of_files(relative)
    by_split = [f"{name}/{i}" for i, name in enumerate(split_names or ["all"] * len(relative))]
    folders = layout_of(str(path), relative, split, ())
    if folders.splits:
        return [found[row] for row in folders.rows], ignored, [], folders.splits
    names = layout_of(str(path), by_split, split, ())
    return [found[row] for row in names.rows], ignored, notes, names.splits


def _image_columns(schema: Any) -> list[str]:
    import pyarrow as pa  # noqa: PLC0415 - optional

    def holds_images(field: Any) -> bool:
        if pa.types.is_struct(field.type):
            return any(field.type.field(i).name == "bytes" for i in range(field.type.num_fields))
        return bool(pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type))

    return [field.name for field in schema if holds_images(field)]


def _columns(schema: Any, location: str) -> tuple[str, str, list[str]]:
    """Return the image column, the class column or "" without one, and notes."""
    import pyarrow as pa  # noqa: PLC0415 - optional

    images = _image_columns(schema)
    if not images:
        raise DataError(
            f"{location} has no image column; its columns are: {', '.join(schema.names)}"
        )
    image, notes = choose_column(images, IMAGE_COLUMNS)

    def holds_classes(field: Any) -> bool:
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        tests = (pa.types.is_integer, pa.types.is_string, pa.types.is_large_string)
        return any(test(kind) for test in tests)

    labels = [name for name in LABEL_COLUMNS if name in schema.names]
    label = next((name for name in labels if holds_classes(schema.field(name))), "")
    if labels and not label:
        notes = [
            *notes,
            f"no classes, because the column {labels[0]} holds {schema.field(labels[0]).type}",
        ]
    return image, label, notes


def _class_names(schema: Any, column: str) -> Sequence[str]:
    """Return the names of a ClassLabel column, from the metadata that `datasets` writes."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        return [str(name) for name in features[column]["names"]]
    except (KeyError, TypeError, ValueError):
        return ()


def _last_at_most(groups: Sequence[tuple[int, int, int]], row: int) -> int:
    low, high = 0, len(groups)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if groups[middle][2] <= row else (low, middle)
    return low
