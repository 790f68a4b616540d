"""Data sets that the Hugging Face `datasets` library can read, local or from the hub."""

from __future__ import annotations

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
from training.data.sources.layout import find_split
from training.data.sources.source import DataError, MissingSplit, decode, select_classes


class HuggingFaceSource:
    """The first image column of a data set, and its first column of class labels if it has one."""

    def __init__(
        self,
        rows: Any,
        location: str,
        classes: Sequence[str] | None = None,
        splits: Mapping[str, int] | None = None,
    ) -> None:
        """Wrap a `datasets.Dataset`. Raises DataError if it has no image column."""
        import datasets  # noqa: PLC0415 - optional, and slow to import

        types = {name: type(feature) for name, feature in rows.features.items()}
        images = [name for name, kind in types.items() if kind is datasets.Image]
        if not images:
            raise DataError(f"{location} has no image column; its columns are: {', '.join(types)}")
        self._column, notes = choose_column(images, IMAGE_COLUMNS)
        label = _label_column(rows.features, datasets)
        # Undecoded, so that every source uses the same decoder.
        self._rows = rows.cast_column(self._column, datasets.Image(decode=False))
        self.splits: Mapping[str, int] = splits or {}
        self.ignored: Mapping[str, str] = {}
        self.names: Sequence[str] = [f"{location}[{i}]" for i in range(len(rows))]
        self.labels: Sequence[int] | None = None
        self.class_names: Sequence[str] = []
        if label is not None and (classes is None or classes):
            own = getattr(rows.features[label], "names", None) or []
            self.class_names, self.labels, more = column_classes(list(rows[label]), own)
            notes += more
        self.notes: Sequence[str] = notes
        if classes:
            selected, self.labels = select_classes(self.labels or [], self.class_names, classes)
            kept = set(selected)
            self.ignored = {
                name: "is in none of data.classes"
                for row, name in enumerate(self.names)
                if row not in kept
            }
            self._rows = self._rows.select(selected)
            self.names, self.class_names = [self.names[i] for i in selected], list(classes)

    def read(self, index: int) -> Image.Image:
        # `datasets` stores the file's bytes, or only its path.
        image = self._rows[index][self._column]
        return decode(image["bytes"] or Path(image["path"]).read_bytes())

    def file(self, index: int) -> bytes | None:  # noqa: ARG002 - `datasets` may have re-encoded it
        return None

    @staticmethod
    def recognizes(folder: Path) -> bool:
        """Return whether `save_to_disk` wrote the folder, or it contains Arrow files."""
        patterns = ("dataset_info.json", "dataset_dict.json", "*.arrow")
        return any(any(folder.glob(pattern)) for pattern in patterns)

    @classmethod
    def from_disk(
        cls, folder: Path, split: str | None, classes: Sequence[str] | None
    ) -> HuggingFaceSource:
        """Read a folder written by `save_to_disk`, or of Arrow files. Raises DataError."""
        saved = (folder / "dataset_info.json").exists() or (folder / "dataset_dict.json").exists()
        if saved:
            rows = _with_datasets(lambda d: d.load_from_disk(str(folder)), str(folder))
        else:
            rows = _with_datasets(lambda d: d.load_dataset(str(folder)), str(folder))
        return cls._of_split(rows, str(folder), split, classes)

    @classmethod
    def from_hub(
        cls, name: str, split: str | None, classes: Sequence[str] | None
    ) -> HuggingFaceSource:
        """Download a data set ``owner/name`` from the hub, or use the cached copy.

        Raises DataError.
        """
        rows = _with_datasets(lambda d: d.load_dataset(name), f"hub:{name}")
        return cls._of_split(rows, name, split, classes)

    @classmethod
    def _of_split(
        cls, rows: Any, location: str, split: str | None, classes: Sequence[str] | None
    ) -> HuggingFaceSource:
        if not hasattr(rows, "keys"):
            return cls(rows, location, classes)
        splits = {name: len(rows[name]) for name in rows}
        name = find_split(split, splits)
        if name is None:
            raise MissingSplit(location, split, splits)
        return cls(rows[name], location, classes, splits)


def _label_column(features: Any, datasets: Any) -> str | None:
    """Return the first column of class labels, or of numbers or texts with the name of one."""
    for name, feature in features.items():
        if type(feature) is datasets.ClassLabel:
            return str(name)
    for name in LABEL_COLUMNS:
        dtype = str(getattr(features.get(name), "dtype", ""))
        if dtype == "string" or dtype.startswith(("int", "uint")):
            return name
    return None


def _with_datasets(load: Any, location: str) -> Any:
    try:
        import datasets  # noqa: PLC0415 - optional, and slow to import
    except ImportError as error:
        raise DataError(
            f"{location} needs the datasets library: pip install 'ganymede[hub]'"
        ) from error
    try:
        return load(datasets)
    except Exception as error:
        raise DataError(f"{location} cannot be loaded: {first_line(error)}") from error
