"""Labeled data sets that combine real and synthetic images, with the source of each image."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from service.runtime.errors import UserError
from service.runtime.formatting import exact
from service.runtime.images.decoding import ImageDecodeError
from service.runtime.images.encoding import ImageFormat, encode, resized
from service.runtime.images.file_formats import readable_suffixes
from service.runtime.latent.seeds import MAX_SEED
from service.runtime.latent.sources import LatentSource, feeds
from service.runtime.models.manifest import Manifest
from service.runtime.models.model import Model
from service.runtime.models.parts.graphs import GENERATOR
from training.data.class_folders import class_folders
from training.data.datasets import class_names, locate_dataset
from training.data.sources import ImageSource, open_source

Layout = Literal["folder", "parquet"]
# Called with the number of files that have been written so far.
Progress = Callable[[int], None]


class AugmentError(UserError):
    """The data set cannot be created with these options. Nothing was written."""


@dataclass(frozen=True)
class Sample:
    """One image of the data set: its encoded file, class index and metadata."""

    name: str
    file: bytes
    label: int
    metadata: Mapping[str, Any]


@dataclass(frozen=True)
class AugmentedDataset:
    """All images of `source`, plus `per_class` images of `model` for each of its classes.

    `classes` maps each class index of the source to one of the model. With `side`, all images are
    center-cropped and resized to `side` pixels. The seeds of synthetic images start at
    `first_seed`.
    """

    source: ImageSource
    names: Sequence[str]
    model: Model
    classes: Sequence[int]
    per_class: int
    first_seed: int = 0
    truncation: float | None = None
    side: int | None = None

    @property
    def count(self) -> int:
        """Total number of images."""
        return len(self.source.names) + self.per_class * len(self.classes)

    def samples(self) -> Iterator[Sample]:
        """Yield the real images, then the synthetic ones. Raises AugmentError."""
        yield from self._real()
        for label in range(len(self.classes)):
            yield from self._synthetic(label)

    def _real(self) -> Iterator[Sample]:
        labels = self.source.labels
        assert labels is not None  # noqa: S101 - checked by `open_augmented_dataset`
        digits = len(str(len(labels) - 1))
        for number, (name, label) in enumerate(zip(self.source.names, labels, strict=True)):
            try:
                file, suffix = self._file(number)
            except (ImageDecodeError, OSError, ValueError) as error:
                raise AugmentError(
                    f"{name} cannot be read: {error} Remove it, or prepare the data with "
                    "`ganymede data --out`, which leaves it out"
                ) from error
            metadata = {"source": "real", "class": self.names[label], "origin": name}
            yield Sample(f"real-{number:0{digits}}{suffix}", file, label, metadata)

    def _file(self, number: int) -> tuple[bytes, str]:
        """Return the encoded image and its suffix; the original file if it needs no resizing."""
        # Files that are copied are decoded too: a corrupt one must not be copied in silence.
        image = self.source.read(number)
        if self.side is None and (file := self.source.file(number)) is not None:
            return file, _suffix(self.source.names[number], file)
        if self.side is not None:
            image = _center_square(image, self.side)
        out = io.BytesIO()
        image.save(out, "PNG")
        return out.getvalue(), ".png"

    def _synthetic(self, label: int) -> Iterator[Sample]:
        manifest, batch = self.model.manifest, self.model.plan.max_rows
        class_weights = {self.classes[label]: 1.0}
        identity = {"model": manifest.name, "version": manifest.version}
        identity["digest"] = self.model.digest
        first = self.first_seed + label * self.per_class
        digits = len(str(self.first_seed + len(self.classes) * self.per_class))
        for start in range(first, first + self.per_class, batch):
            seeds = range(start, min(start + batch, first + self.per_class))
            latents = [
                LatentSource(seed, classes=class_weights, truncation=self.truncation)
                for seed in seeds
            ]
            images = self.model.run(GENERATOR, feeds(latents, manifest))["pixels"]
            for latent, pixels in zip(latents, images, strict=True):
                parameters = latent.parameters(manifest)
                image = pixels
                if self.side is not None:
                    image = resized(pixels, self.side, self.side)
                    parameters["resized"] = [self.side, self.side]
                file = encode(image, ImageFormat.PNG, {**identity, **parameters})
                metadata = {"source": "synthetic", **parameters, "class": self.names[label]}
                metadata["model"] = f"{manifest.name}@{manifest.version}"
                yield Sample(f"seed-{latent.seed:0{digits}}.png", file, label, metadata)


def open_augmented_dataset(
    data: str,
    model: Model,
    per_class: int,
    *,
    split: str | None = None,
    first_seed: int = 0,
    truncation: float | None = None,
    side: int | None = None,
    pairs: str | None = None,
) -> AugmentedDataset:
    """Open the real data and match their classes to the model's.

    `data` is a path or a data set name. `pairs` is ``REAL=MODEL,…`` for classes whose names
    differ. Raises AugmentError for invalid options, DataError for unreadable data.
    """
    manifest = model.manifest
    if not manifest.classes:
        raise AugmentError(
            f"{manifest.name} is not class-conditional and cannot generate labeled images"
        )
    if per_class < 1:
        raise AugmentError(f"--per-class: expected at least 1, got {per_class}")
    path = Path(data).expanduser()
    source = open_source(path if path.exists() else locate_dataset(data), split)
    if source.labels is None:
        reason = "; ".join(source.notes) or "expected one folder per class"
        raise AugmentError(f"{data} has no classes: {reason}")
    names = class_names(data, source.class_names)
    if first_seed < 0 or first_seed + per_class * len(names) > MAX_SEED + 1:
        last_seed = first_seed + per_class * len(names) - 1
        raise AugmentError(
            f"seeds must be between 0 and {MAX_SEED:,}; these would be {first_seed:,} to "
            f"{last_seed:,}"
        )
    space = manifest.latent.truncation if manifest.latent else None
    if truncation is None:
        truncation = space.default if space else None
    elif space is None or not space.minimum <= truncation <= space.maximum:
        expected = f"{exact(space.minimum)} to {exact(space.maximum)}" if space else "none"
        raise AugmentError(
            f"--truncation: {manifest.name} takes {expected}; got {exact(truncation)}"
        )
    classes = _match_classes(names, manifest, pairs)
    return AugmentedDataset(source, names, model, classes, per_class, first_seed, truncation, side)


def write_augmented_dataset(
    dataset: AugmentedDataset, out: Path, layout: Layout, progress: Progress
) -> dict[str, int]:
    """Write the data set into the folder `out`, which appears only when it is complete.

    Returns the numbers of images by source: ``{"real": …, "synthetic": …}``. Raises AugmentError.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise AugmentError(f"--out: {out} already exists and is not empty")
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    counts = {"real": 0, "synthetic": 0}

    def counted() -> Iterator[Sample]:
        for sample in dataset.samples():
            yield sample
            counts[sample.metadata["source"]] += 1
            progress(sum(counts.values()))

    try:
        part.mkdir(parents=True)
        _WRITERS[layout](part, counted(), dataset.names)
        if out.is_dir():
            out.rmdir()
        part.rename(out)
    except OSError as error:
        raise AugmentError(f"{out} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return counts


def _write_folder(part: Path, samples: Iterator[Sample], names: Sequence[str]) -> None:
    folders = class_folders(names)
    for folder in folders:
        (part / folder).mkdir()
    # Hugging Face's `imagefolder` reads additional columns from a file of this name.
    with (part / "metadata.jsonl").open("w") as lines:
        for sample in samples:
            name = f"{folders[sample.label]}/{sample.name}"
            (part / name).write_bytes(sample.file)
            row = {"file_name": name, **_columns(sample)}
            if folders != list(names):
                row["class"] = names[sample.label]
            lines.write(json.dumps(row) + "\n")


def _write_parquet(part: Path, samples: Iterator[Sample], names: Sequence[str]) -> None:
    try:
        import pyarrow as pa  # noqa: PLC0415
        import pyarrow.parquet as pq  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise AugmentError("--format parquet needs pyarrow: pip install 'ganymede[parquet]'") from (
            error
        )
    texts = ("source", "origin", "model")
    types = {"image": pa.struct([("bytes", pa.binary()), ("path", pa.string())])}
    types |= {"label": pa.int64()} | dict.fromkeys(texts, pa.string()) | {"seed": pa.int64()}
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    features["label"] = {"names": list(names), "_type": "ClassLabel"}
    features |= {name: {"dtype": "string", "_type": "Value"} for name in texts}
    features["seed"] = {"dtype": "int64", "_type": "Value"}
    info = json.dumps({"info": {"features": features}})
    schema = pa.schema(list(types.items()), metadata={"huggingface": info})
    with pq.ParquetWriter(part / "train-00000.parquet", schema, compression="none") as writer:
        rows = []
        for sample in samples:
            image = {"bytes": sample.file, "path": sample.name}
            rows.append({"image": image, "label": sample.label, **_columns(sample)})
            if len(rows) == 100:
                writer.write_table(pa.Table.from_pylist(rows, schema))
                rows.clear()
        if rows:
            writer.write_table(pa.Table.from_pylist(rows, schema))


_WRITERS: dict[str, Callable[[Path, Iterator[Sample], Sequence[str]], None]] = {
    "folder": _write_folder,
    "parquet": _write_parquet,
}


def _columns(sample: Sample) -> dict[str, Any]:
    """Return the values of the metadata columns, None if not set."""
    return {name: sample.metadata.get(name) for name in ("source", "origin", "model", "seed")}


def _match_classes(names: Sequence[str], manifest: Manifest, pairs: str | None) -> list[int]:
    """Return the model's class index for each real class. Raises AugmentError."""
    mapping: dict[str, str] = {}
    for pair in (pairs or "").split(","):
        real, equals, generated = pair.partition("=")
        if pair and (not equals or real not in names or generated not in manifest.classes):
            raise AugmentError(
                f"--classes: expected REAL=MODEL, got {pair!r}; real: {', '.join(names)}; "
                f"{manifest.name}: {', '.join(manifest.classes)}"
            )
        mapping[real] = generated
    index_by_name = {_normalize(name): i for i, name in enumerate(manifest.classes)}
    classes = []
    for name in names:
        index = index_by_name.get(_normalize(mapping.get(name, name)))
        if index is None:
            raise AugmentError(
                f"{manifest.name} has no class {name!r}; it has: {', '.join(manifest.classes)}; "
                "map it with --classes REAL=MODEL"
            )
        classes.append(index)
    return classes


def _normalize(name: str) -> str:
    return re.sub(r"[\W_]+", "-", name).casefold()


def _suffix(name: str, file: bytes) -> str:
    """Return the suffix of an image file: its own, or that of its format if it has none."""
    suffix = Path(name).suffix.lower()
    if suffix in readable_suffixes():
        return suffix
    with Image.open(io.BytesIO(file)) as image:
        kind = image.format or "png"
    return {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif"}.get(kind, f".{kind.lower()}")


def _center_square(image: Image.Image, side: int) -> Image.Image:
    """Crop the center square and resize it with the filter of training (Lanczos)."""
    short = min(image.size)
    left, top = (image.width - short) // 2, (image.height - short) // 2
    converted = image if image.mode in ("L", "RGB") else image.convert("RGB")
    cropped = converted.crop((left, top, left + short, top + short))
    return cropped.resize((side, side), Image.Resampling.LANCZOS)
