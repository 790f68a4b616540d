"""Data sets that the Hugging Face `datasets` library can read, local or from the hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from training.data.sources.source import DataError, decode


class HuggingFaceSource:
    """The first image column of a data set, and its first column of class labels if it has one."""

    def __init__(self, rows: Any, location: str) -> None:
        """Wrap a `datasets.Dataset`. Raises DataError if it has no image column."""
        import datasets  # noqa: PLC0415 - optional, and slow to import

        types = {name: type(feature) for name, feature in rows.features.items()}
        images = [name for name, kind in types.items() if kind is datasets.Image]
        if not images:
            raise DataError(f"{location} has no image column; its columns are: {', '.join(types)}")
        labels = [name for name, kind in types.items() if kind is datasets.ClassLabel]
        # Undecoded, so that every source uses the same decoder.
        self._rows = rows.cast_column(images[0], datasets.Image(decode=False))
        self._column = images[0]
        self.names: Sequence[str] = [f"{location}[{i}]" for i in range(len(rows))]
        self.labels: Sequence[int] | None = list(rows[labels[0]]) if labels else None
        self.class_names: Sequence[str] = rows.features[labels[0]].names if labels else []

    def read(self, index: int) -> Image.Image:
        # `datasets` stores the file's bytes, or only its path.
        image = self._rows[index][self._column]
        return decode(image["bytes"] or Path(image["path"]).read_bytes())

    def file(self, index: int) -> bytes | None:  # noqa: ARG002 - `datasets` may have re-encoded it
        return None

    @staticmethod
    def recognizes(folder: Path) -> bool:
        """Return whether `save_to_disk` wrote the folder, or it contains Parquet or Arrow files."""
        patterns = (
            "dataset_info.json",
            "dataset_dict.json",
            "*.parquet",
            "data/*.parquet",
            "*.arrow",
        )
        return any(any(folder.glob(pattern)) for pattern in patterns)

    @classmethod
    def from_disk(cls, folder: Path, split: str) -> HuggingFaceSource:
        """Read a folder written by `save_to_disk`, or of Parquet or Arrow files.

        Raises DataError.
        """
        saved = (folder / "dataset_info.json").exists() or (folder / "dataset_dict.json").exists()
        if saved:
            rows = _with_datasets(lambda d: d.load_from_disk(str(folder)), str(folder))
            if hasattr(rows, "keys"):
                if split not in rows:
                    raise DataError(
                        f"{folder} has no split {split!r}; available: {', '.join(sorted(rows))}"
                    )
                rows = rows[split]
        else:
            rows = _with_datasets(lambda d: d.load_dataset(str(folder), split=split), str(folder))
        return cls(rows, str(folder))

    @classmethod
    def from_hub(cls, name: str, split: str) -> HuggingFaceSource:
        """Download a data set ``owner/name`` from the hub, or use the cached copy.

        Raises DataError.
        """
        return cls(_with_datasets(lambda d: d.load_dataset(name, split=split), f"hub:{name}"), name)


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
        raise DataError(f"{location} cannot be loaded: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
