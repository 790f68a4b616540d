"""Pictures, decoded once: a source becomes one array of a fixed size that batches are cut from.

The array lives in a cache file and is memory-mapped, so a restarted run begins at once, a data set
may be larger than memory, and no step ever waits for a decoder.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from pydantic import Field, PositiveInt

from service.runtime.files import cache_folder
from training.data.datasets import KNOWN_DATASETS, DatasetMissing, class_names, locate_dataset
from training.data.sources import DataError, ImageSource, SourceSubset, name_hash, open_source
from training.recipe.options import Options

# A random crop is cut from a picture stored this much larger, as is usual (256 from 286).
CROP_MARGIN = 1.12
_CHUNK_BYTES = 2**26
# Of the decoded copy; one of an earlier format is not looked at.
_FORMAT = 2


class DataOptions(Options):
    """Which pictures, at which size, and how they vary from epoch to epoch."""

    name: str | None = None
    path: str | None = None
    split: str = "train"
    resolution: PositiveInt = 64
    channels: Literal[1, 3, 4] = 3
    crop: Literal["centre", "random"] = "centre"
    # The side at which pictures are kept, where random crops are cut from much larger ones.
    stored: PositiveInt | None = None
    flip: bool = False
    # Only the first so many pictures, for a quick trial.
    limit: PositiveInt | None = None
    # Only the pictures of this class; they then have none.
    only: str | None = None
    # One name in so many is kept for the split `test`, where the data have no splits of their own.
    hold_out: int | None = Field(default=None, ge=2)
    # The pictures of one half of the names, so that two sets of the same names have none in common.
    half: Literal[0, 1] | None = None

    @property
    def title(self) -> str:
        """The data set's name for people."""
        if self.name is None:
            return Path(self.path or "").name
        return KNOWN_DATASETS[self.name].title if self.name in KNOWN_DATASETS else self.name

    @property
    def license(self) -> str:
        """The data set's licence as far as it is known."""
        return KNOWN_DATASETS[self.name].license if self.name in KNOWN_DATASETS else "unknown"

    def locate(self) -> Path | str:
        """Return where the data are. Raises DataError."""
        if self.path is not None:
            return self.path if self.path.startswith("hub:") else Path(self.path)
        if self.name is None:
            raise DataError("the recipe names no data: give data.name or data.path")
        return locate_dataset(self.name)

    def open(self) -> ImageSource:
        """Open the data. Raises DataError, which says how else they could be had."""
        where = self.locate()
        try:
            source = open_source(where, "train" if self.hold_out else self.split)
            return self._selected(source)
        except DataError as error:
            if self.name and self.path is None and not isinstance(where, Path):
                raise DatasetMissing(str(error), self.name) from error
            raise

    def _selected(self, source: ImageSource) -> ImageSource:
        """Leave out what is not asked for. Raises DataError."""
        if self.only is None and self.hold_out is None and self.half is None:
            return source
        if self.only is not None and self.only not in source.class_names:
            there = ", ".join(source.class_names) or "none"
            raise DataError(f"data.only: no class {self.only!r}; there are: {there}")
        label = None if self.only is None else source.class_names.index(self.only)
        rows = []
        for row, name in enumerate(source.names):
            if label is not None and (source.labels is None or source.labels[row] != label):
                continue
            lot = name_hash(name)
            if self.hold_out and (lot % self.hold_out == 0) != (self.split == "test"):
                continue
            # Other digits of the same lot than those that hold out.
            if self.half is not None and lot // 1009 % 2 != self.half:
                continue
            rows.append(row)
        return SourceSubset(source, rows, with_classes=self.only is None)

    @property
    def stored_size(self) -> int:
        """Side of the stored pictures, in pixels."""
        if self.crop == "random" and self.stored is not None:
            return max(self.stored, self.resolution)
        return round(self.resolution * CROP_MARGIN) if self.crop == "random" else self.resolution


@dataclass(frozen=True)
class ImageData:
    """Decoded pictures ``[N, H, W, C] uint8``, with labels ``[N] int64`` where there are any."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    class_names: tuple[str, ...]
    skipped: tuple[str, ...] = ()
    # What each is called in its source.
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.pixels)


Progress = Callable[[int, int], None]


def load_images(options: DataOptions, progress: Progress | None = None) -> ImageData:
    """Decode the pictures that `options` name, or map the copy that was decoded before.

    Corrupt files are left out and named in `skipped`. Raises DataError when none is left.
    """
    source = options.open()
    folder = cache_folder("pictures") / _fingerprint(source, options)
    if not (folder / "index.json").exists():
        _decode(source, options, folder, progress)
    index = json.loads((folder / "index.json").read_text())
    return ImageData(
        pixels=np.load(folder / "pixels.npy", mmap_mode="r"),
        labels=None if source.labels is None else np.load(folder / "labels.npy"),
        class_names=class_names(options.name, source.class_names),
        skipped=tuple(index["skipped"]),
        names=tuple(index["names"]),
    )


def center_crops(pictures: ImageData, side: int) -> ImageData:
    """Return the middle of each picture, `side` pixels wide: what random crops are about."""
    margin = (pictures.pixels.shape[1] - side) // 2
    if not margin:
        return pictures
    rows = slice(margin, margin + side)
    return replace(pictures, pixels=pictures.pixels[:, rows, rows])


def fit(image: Image.Image, size: int, channels: int) -> NDArray[np.uint8]:
    """Cut the centre square, resize it (Lanczos, antialiased): ``[size, size, channels] uint8``.

    Transparency becomes white unless four channels are asked for.
    """
    # Cameras write pictures as the sensor lay, and say in EXIF how to turn them.
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = _to_8_bits(image)
    if channels == 4:
        image = image.convert("RGBA")
    else:
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("L" if channels == 1 else "RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    if (size, size) != image.size:
        box = (left, top, left + side, top + side)
        image = image.resize((size, size), Image.Resampling.LANCZOS, box=box)
    return np.asarray(image).reshape(size, size, channels)


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Scale a picture of 16 bits a value; Pillow's own conversion cuts off all above 255."""
    values = np.asarray(image).astype(np.float64)
    if image.mode.startswith("I;16") or values.max(initial=0) > 255:
        values = values / 257
    return Image.fromarray(values.round().clip(0, 255).astype(np.uint8))


def _decode(
    source: ImageSource, options: DataOptions, folder: Path, progress: Progress | None
) -> None:
    count = min(len(source.names), options.limit or len(source.names))
    size, channels = options.stored_size, options.channels
    folder.parent.mkdir(parents=True, exist_ok=True)
    skipped: list[str] = []
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".decoding-") as temporary:
        part = Path(temporary) / "pictures"
        part.mkdir()
        pixels = np.lib.format.open_memmap(
            part / "all.npy", "w+", np.uint8, (count, size, size, channels)
        )
        kept: list[int] = []
        for index, picture in _decoded(source, count, size, channels):
            if isinstance(picture, Exception):
                skipped.append(f"{source.names[index]}: {picture}")
            else:
                pixels[len(kept)] = picture
                kept.append(index)
            if progress and (index % 256 == 0 or index + 1 == count):
                progress(index + 1, count)
        if not kept:
            raise DataError(f"none of {count} pictures can be read; first: {skipped[0]}")
        pixels.flush()
        if skipped:
            np.save(part / "pixels.npy", pixels[: len(kept)])
            (part / "all.npy").unlink()
        else:
            (part / "all.npy").rename(part / "pixels.npy")
        if source.labels is not None:
            np.save(part / "labels.npy", np.asarray(source.labels, np.int64)[kept])
        names = [source.names[index] for index in kept]
        (part / "index.json").write_text(json.dumps({"skipped": skipped, "names": names}))
        # Another process may have finished the same work; either copy will do.
        if not folder.exists():
            part.rename(folder)


def _decoded(
    source: ImageSource, count: int, size: int, channels: int
) -> Iterator[tuple[int, NDArray[np.uint8] | Exception]]:
    def decode(index: int) -> tuple[int, NDArray[np.uint8] | Exception]:
        try:
            return index, fit(source.read(index), size, channels)
        except Exception as error:  # noqa: BLE001 - decoders raise whatever they like
            return index, error

    # A chunk at a time, since map() would hold every decoded picture of a large set.
    chunk = max(_CHUNK_BYTES // (size * size * channels), 16)
    with ThreadPoolExecutor() as pool:
        for start in range(0, count, chunk):
            yield from pool.map(decode, range(start, min(start + chunk, count)))


def _fingerprint(source: ImageSource, options: DataOptions) -> str:
    """Name the decoded copy by what went into it: files with size and time, and the sizes here."""
    where = options.locate()
    stats: list[object] = [str(where)]
    if isinstance(where, Path):
        files = [where] if where.is_file() else sorted(f for f in where.rglob("*") if f.is_file())
        stats += [(f.as_posix(), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    shape = (options.split, options.stored_size, options.channels, options.limit, len(source.names))
    chosen = (options.only, options.hold_out, options.half)
    return hashlib.sha256(repr((_FORMAT, stats, shape, chosen)).encode()).hexdigest()[:24]
