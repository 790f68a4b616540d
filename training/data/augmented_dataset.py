"""Real pictures and synthetic ones in one labelled data set, each saying which it is."""

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
from service.runtime.images.encoding import ImageFormat, encode, resized
from service.runtime.latent.seeds import MAX_SEED
from service.runtime.latent.sources import LatentSource, feeds
from service.runtime.models.manifest import GENERATOR, Manifest
from service.runtime.models.model import Model
from training.data.datasets import class_names, locate_dataset
from training.data.sources import FolderSource, ImageSource, ZipSource, open_source

Layout = Literal["folder", "parquet"]
# Told of how many files are written.
Progress = Callable[[int], None]


class AugmentError(UserError):
    """The data set cannot be made as asked; nothing was written."""


@dataclass(frozen=True)
class Sample:
    """One picture of the data set: its file, and what is known of it."""

    name: str
    file: bytes
    label: int
    said: Mapping[str, Any]


@dataclass(frozen=True)
class AugmentedDataset:
    """`per_class` pictures of `model` beside each class of the real ones.

    `classes` gives for each real class, by index, the model's. With `side` every picture, real or
    not, is cut to a square and resampled to so many pixels.
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
        """How many pictures there will be."""
        return len(self.source.names) + self.per_class * len(self.classes)

    def samples(self) -> Iterator[Sample]:
        """Yield the real pictures, then the synthetic ones. Raises AugmentError."""
        yield from self._real()
        for label in range(len(self.classes)):
            yield from self._synthetic(label)

    def _real(self) -> Iterator[Sample]:
        labels = self.source.labels
        assert labels is not None  # noqa: S101 - `prepare` sees to it
        digits = len(str(len(labels) - 1))
        for number, (name, label) in enumerate(zip(self.source.names, labels, strict=True)):
            try:
                file, suffix = self._file(number)
            except (OSError, ValueError) as error:
                raise AugmentError(f"{name} cannot be read: {error}") from error
            said = {"source": "real", "class": self.names[label], "origin": name}
            yield Sample(f"real-{number:0{digits}}{suffix}", file, label, said)

    def _file(self, number: int) -> tuple[bytes, str]:
        if self.side is None and isinstance(self.source, FolderSource | ZipSource):
            # As it is, to the last byte.
            suffix = Path(self.source.names[number]).suffix.lower()
            return self.source.file(number), suffix
        image = self.source.read(number)
        if self.side is not None:
            image = _square(image, self.side)
        out = io.BytesIO()
        image.save(out, "PNG")
        return out.getvalue(), ".png"

    def _synthetic(self, label: int) -> Iterator[Sample]:
        manifest, at_once = self.model.manifest, self.model.plan.max_rows
        wanted = {self.classes[label]: 1.0}
        identity = {"model": manifest.name, "version": manifest.version}
        identity["digest"] = self.model.digest
        first = self.first_seed + label * self.per_class
        digits = len(str(self.first_seed + len(self.classes) * self.per_class))
        for start in range(first, first + self.per_class, at_once):
            seeds = range(start, min(start + at_once, first + self.per_class))
            origins = [LatentSource(s, classes=wanted, truncation=self.truncation) for s in seeds]
            pixels = self.model.run(GENERATOR, feeds(origins, manifest))["pixels"]
            for origin, picture in zip(origins, pixels, strict=True):
                parameters = origin.parameters(manifest)
                made = picture
                if self.side is not None:
                    made = resized(picture, self.side, self.side)
                    parameters["resized"] = [self.side, self.side]
                file = encode(made, ImageFormat.PNG, {**identity, **parameters})
                said = {"source": "synthetic", **parameters, "class": self.names[label]}
                said["model"] = f"{manifest.name}@{manifest.version}"
                yield Sample(f"seed-{origin.seed:0{digits}}.png", file, label, said)


def open_augmented_dataset(
    data: str,
    model: Model,
    per_class: int,
    *,
    split: str = "train",
    first_seed: int = 0,
    truncation: float | None = None,
    side: int | None = None,
    pairs: str | None = None,
) -> AugmentedDataset:
    """Open what is to be joined. `pairs` says ``REAL=MODEL,…`` where classes are called otherwise.

    Raises AugmentError, and DataError for data that cannot be read.
    """
    manifest = model.manifest
    if not manifest.classes:
        raise AugmentError(f"{manifest.name} is not class-conditional: it makes no labelled data")
    if per_class < 1:
        raise AugmentError(f"--per-class: expected at least 1, got {per_class}")
    source = open_source(data if Path(data).exists() else locate_dataset(data), split)
    if source.labels is None:
        raise AugmentError(f"{data} has no classes: a folder for each is expected")
    names = class_names(data, source.class_names)
    if first_seed < 0 or first_seed + per_class * len(names) > MAX_SEED + 1:
        raise AugmentError(f"seeds go from 0 to {MAX_SEED:,}, and these go beyond")
    space = manifest.latent.truncation if manifest.latent else None
    if truncation is None:
        truncation = space.default if space else None
    elif space is None or not space.minimum <= truncation <= space.maximum:
        told = f"{space.minimum:g} to {space.maximum:g}" if space else "none"
        raise AugmentError(f"--truncation: {manifest.name} takes {told}, and not {truncation:g}")
    classes = _pair(names, manifest, pairs)
    return AugmentedDataset(source, names, model, classes, per_class, first_seed, truncation, side)


def write_augmented_dataset(
    wish: AugmentedDataset, out: Path, layout: Layout, progress: Progress
) -> dict[str, int]:
    """Write the data set into the folder `out`, which is there when all of it is.

    Returns how many pictures are real and how many synthetic. Raises AugmentError.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise AugmentError(f"--out: {out} is there already and not empty")
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    counts = {"real": 0, "synthetic": 0}

    def counted() -> Iterator[Sample]:
        for sample in wish.samples():
            yield sample
            counts[sample.said["source"]] += 1
            progress(1)

    try:
        part.mkdir(parents=True)
        _WRITERS[layout](part, counted(), wish.names)
        if out.is_dir():
            out.rmdir()
        part.rename(out)
    except OSError as error:
        raise AugmentError(f"{out} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return counts


def _write_folder(part: Path, samples: Iterator[Sample], names: Sequence[str]) -> None:
    folders = [_folder(name) for name in names]
    for folder in folders:
        (part / folder).mkdir()
    # A file of that name is what Hugging Face's imagefolder takes further columns from.
    with (part / "metadata.jsonl").open("w") as lines:
        for sample in samples:
            name = f"{folders[sample.label]}/{sample.name}"
            (part / name).write_bytes(sample.file)
            lines.write(json.dumps({"file_name": name, **_columns(sample)}) + "\n")


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
    about = json.dumps({"info": {"features": features}})
    schema = pa.schema(list(types.items()), metadata={"huggingface": about})
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
    """The same columns for every picture, None where one says nothing."""
    return {name: sample.said.get(name) for name in ("source", "origin", "model", "seed")}


def _pair(names: Sequence[str], manifest: Manifest, pairs: str | None) -> list[int]:
    told: dict[str, str] = {}
    for pair in (pairs or "").split(","):
        real, equals, other = pair.partition("=")
        if pair and (not equals or real not in names or other not in manifest.classes):
            raise AugmentError(
                f"--classes: expected REAL=MODEL, got {pair!r}; real: {', '.join(names)}; "
                f"{manifest.name}: {', '.join(manifest.classes)}"
            )
        told[real] = other
    found = {_plain(name): i for i, name in enumerate(manifest.classes)}
    classes = []
    for name in names:
        index = found.get(_plain(told.get(name, name)))
        if index is None:
            raise AugmentError(
                f"{manifest.name} has no class {name!r}; it has: {', '.join(manifest.classes)}; "
                "--classes REAL=MODEL says which is meant"
            )
        classes.append(index)
    return classes


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "-", name).casefold()


def _folder(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip(".-") or "class"


def _square(image: Image.Image, side: int) -> Image.Image:
    """Cut the middle square out of a picture, and resample it as training does."""
    short = min(image.size)
    left, top = (image.width - short) // 2, (image.height - short) // 2
    plain = image if image.mode in ("L", "RGB") else image.convert("RGB")
    cut = plain.crop((left, top, left + short, top + short))
    return cut.resize((side, side), Image.Resampling.LANCZOS)
