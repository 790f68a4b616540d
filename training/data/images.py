"""Data set options, and decoded data sets: all images of a source in one array of fixed size.

The array is a memory-mapped cache file. A restarted run therefore starts at once, a data set can be
larger than memory, and no training step waits for image decoding.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, PositiveInt, model_validator

from service.runtime.files import cache_folder
from training.data.datasets import KNOWN_DATASETS, DatasetMissing, class_names, locate_dataset
from training.data.findings import LabeledData, scaled_lines
from training.data.sounds.options import SoundOptions
from training.data.sources import DataError, ImageSource, SourceSubset, name_hash, open_source, stem
from training.data.sources.containers import files_on_disk
from training.data.sources.media import IMAGES, SOUNDS
from training.data.sources.source import SCALED
from training.data.sources.source import decode as decode_file
from training.recipe.options import Options

# Ratio of the stored side to the side of a random crop (as usual for pix2pix: 256 from 286).
CROP_MARGIN = 1.12
_CHUNK_BYTES = 2**26
# The decoded bytes of the small images that a thread decodes at once.
_GROUP_BYTES = 2**15
# License of data for which none is known.
UNKNOWN_LICENSE = "unknown"
# Version of the cache layout; part of the cache key.
_CACHE_VERSION = 5


# Options that do not apply to sounds.
_IMAGE_KEYS = ("resolution", "channels", "crop", "stored", "flip")


class DataOptions(Options):
    """Which images to train on, their size, and their random crops and flips; or which sounds."""

    # The name of a known data set, or of a folder or ZIP in $GANYMEDE_DATA. With `path`, the name,
    # and the title, license and class names that belong to it, do not apply.
    name: str | None = None
    path: str | None = None
    # Title and license of the data on the model card; default: those of the known data set.
    title: str | None = None
    license: str | None = None
    # The split to train on; default: the training split, if the data have splits. A name also
    # decides that the folder of this name is a split and not a class.
    split: str | None = None
    # The classes to train on, in this order; an empty list ignores the classes of the data.
    classes: tuple[str, ...] | None = None
    resolution: PositiveInt = 64
    channels: Literal[1, 3, 4] = 3
    crop: Literal["centre", "random"] = "centre"
    # Side of the stored images from which random crops are cut; default: CROP_MARGIN · resolution.
    stored: PositiveInt | None = None
    flip: bool = False
    # Use only so many images, for quick experiments. A hash of their file names selects them, so
    # that all classes and both sides of pairs are represented. Of a text, the first lines.
    limit: PositiveInt | None = None
    # Use only the images of this class, without labels.
    only: str | None = None
    # Hold out 1 of `hold_out` file names as the split `test`, for data without splits.
    hold_out: int | None = Field(default=None, ge=2)
    # Use one half of the file names, so that an unpaired source and target share no image.
    half: Literal[0, 1] | None = None
    # The data are sounds; the keys about the size, crops and flips of images do not apply.
    sound: SoundOptions | None = None

    @model_validator(mode="after")
    def _sounds_have_no_size(self) -> Self:
        if self.sound is not None:
            for key in _IMAGE_KEYS:
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(f"{key} applies to images; remove it, or remove data.sound")
        return self

    @property
    def required_sound(self) -> SoundOptions:
        """The section `sound` of sound data. Raises DataError for image data."""
        if self.sound is None:
            raise DataError("the data are images: sounds need a section data.sound")
        return self.sound

    @property
    def known_name(self) -> str | None:
        """The name of the data set, or None if `path` selects other data."""
        return self.name if self.path is None else None

    @property
    def dataset_title(self) -> str:
        """Human-readable name of the data set: of a path, its last part."""
        if self.title is not None:
            return self.title
        if self.path is not None:
            return title_of_path(self.path)
        known = KNOWN_DATASETS.get(self.name or "")
        return known.title if known else self.name or ""

    @property
    def dataset_license(self) -> str:
        """License of the data set, or "unknown"."""
        known = KNOWN_DATASETS.get(self.known_name or "")
        return self.license or (known.license if known else UNKNOWN_LICENSE)

    def locate(self) -> Path | str:
        """Return the path of the data, or ``hub:owner/name``. Raises DataError."""
        if self.path is not None:
            if self.path.startswith("hub:"):
                return self.path
            return Path(self.path).expanduser()
        if self.name is None:
            raise DataError("the recipe has no data set: set data.name or data.path")
        return locate_dataset(self.name)

    def open(self) -> ImageSource:
        """Open the selected images, or sounds.

        Raises DataError; the message says how to provide the data.
        """
        media = IMAGES if self.sound is None else SOUNDS
        location = self.locate()
        try:
            split = None if self.hold_out else self.split
            source = open_source(location, split, self.classes, media)
            return self._select(source)
        except DataError as error:
            if self.name and self.path is None and not isinstance(location, Path):
                raise DatasetMissing(str(error), self.name) from error
            raise

    @property
    def split_name(self) -> str:
        """The split that is read from data with splits."""
        return self.split or "train"

    def has_splits(self) -> bool:
        """Return whether the data have splits, of their own or by `hold_out`. Raises DataError."""
        return self.hold_out is not None or bool(self.open().splits)

    def _select(self, source: ImageSource) -> ImageSource:
        """Apply `only`, `hold_out`, `half` and `limit`. Raises DataError if no image is left."""
        if self.only is None and self.hold_out is None and self.half is None:
            return self._limited(source)
        if self.only is not None and self.only not in source.class_names:
            available = ", ".join(source.class_names) or "none"
            raise DataError(f"data.only: no class {self.only!r}; available: {available}")
        label = None if self.only is None else source.class_names.index(self.only)
        rows = []
        for row, name in enumerate(source.names):
            if label is not None and (source.labels is None or source.labels[row] != label):
                continue
            key = name_hash(name)
            if self.hold_out and (key % self.hold_out == 0) != (self.split == "test"):
                continue
            # Different bits of the hash, so that the halves are independent of the held-out images.
            if self.half is not None and key // 1009 % 2 != self.half:
                continue
            rows.append(row)
        return self._limited(SourceSubset(source, rows, with_classes=self.only is None))

    def _limited(self, source: ImageSource) -> ImageSource:
        """Apply `limit`. Images with the same file name are selected together where possible."""
        if self.limit is None or len(source.names) <= self.limit:
            return source
        names = source.names
        # `name_hash` is too regular for numbered files.
        keys = [hashlib.sha256(stem(name).encode()).digest() for name in names]
        order = sorted(range(len(names)), key=lambda row: (keys[row], row))
        note = f"data.limit: {self.limit:,} of {len(names):,}, selected by a hash of their names"
        return SourceSubset(source, sorted(order[: self.limit]), with_classes=True, note=note)

    @property
    def stored_size(self) -> int:
        """Side of the stored images, in pixels."""
        if self.crop == "random" and self.stored is not None:
            return max(self.stored, self.resolution)
        return round(self.resolution * CROP_MARGIN) if self.crop == "random" else self.resolution


@dataclass(frozen=True)
class ImageData(LabeledData):
    """A decoded data set: `pixels` ``[N, H, W, C] uint8`` and `labels` ``[N] int64`` or None.

    `skipped` lists the images that could not be decoded, with the reason; `ignored` and `notes` are
    those of `ImageSource`. `fingerprint` is a SHA-256 of the original image files in their order,
    each with the name of its class. It does not depend on the path, the container, the resolution
    or the decoder; files that cannot be decoded count.
    """

    kind: ClassVar[str] = "images"

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    class_names: tuple[str, ...]
    skipped: tuple[str, ...] = ()
    # Name of each image in its source.
    names: tuple[str, ...] = ()
    ignored: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    fingerprint: str = ""
    preparation: str | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def decoded_bytes(self) -> int:
        """The size of the decoded images."""
        return int(self.pixels.nbytes)


# Called with the number of decoded images and the total.
Progress = Callable[[int, int], None]


def load_images(options: DataOptions, progress: Progress | None = None) -> ImageData:
    """Decode the images of a data set, or map the cached copy if the data are unchanged.

    Corrupt images are skipped and listed in `skipped`. Raises DataError if none can be read.
    """
    source = options.open()
    folder = cache_folder("pictures") / _cache_key(source, options)
    if not (folder / "index.json").exists():
        _decode(source, options, folder, progress)
    index = json.loads((folder / "index.json").read_text())
    return ImageData(
        pixels=np.load(folder / "pixels.npy", mmap_mode="r"),
        labels=None if source.labels is None else np.load(folder / "labels.npy"),
        class_names=class_names(options.known_name, source.class_names),
        skipped=tuple(index["skipped"]),
        names=tuple(index["names"]),
        ignored=source.ignored,
        notes=(*source.notes, *scaled_lines(index["scaled"])),
        fingerprint=index["fingerprint"],
    )


def data_location(data: str) -> dict[str, str | None]:
    """Return the fields `name` and `path` of data that are given by a known name or a path."""
    if data in KNOWN_DATASETS and not Path(data).exists():
        return {"name": data, "path": None}
    return {"name": None, "path": data}


def title_of_path(path: str) -> str:
    """Return a human-readable name of the data at a path, without the path itself."""
    return path.removeprefix("hub:") if path.startswith("hub:") else Path(path).resolve().name


def center_crops(data: ImageData, side: int) -> ImageData:
    """Return the center crops of all images, with `side` pixels."""
    margin = (data.pixels.shape[1] - side) // 2
    if not margin:
        return data
    rows = slice(margin, margin + side)
    return replace(data, pixels=data.pixels[:, rows, rows])


def fit(image: Image.Image, size: int, channels: int) -> NDArray[np.uint8]:
    """Crop the center square and resize it (Lanczos): ``[size, size, channels] uint8``.

    With fewer than 4 channels, transparent pixels are composited on white.
    """
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


def _decode(
    source: ImageSource, options: DataOptions, folder: Path, progress: Progress | None
) -> None:
    count = len(source.names)
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
        fingerprint = hashlib.sha256()
        scaled: set[int] = set()
        for index, digest, decoded in _decode_all(source, count, size, channels, scaled):
            label = "" if source.labels is None else source.class_names[source.labels[index]]
            fingerprint.update(f"{digest} {label}\n".encode())
            if isinstance(decoded, Exception):
                skipped.append(f"{source.names[index]}: {decoded}")
            else:
                pixels[len(kept)] = decoded
                kept.append(index)
            if progress and (index % 256 == 0 or index + 1 == count):
                progress(index + 1, count)
        if not kept:
            raise DataError(f"none of {count} images can be read; first: {skipped[0]}")
        pixels.flush()
        if skipped:
            np.save(part / "pixels.npy", pixels[: len(kept)])
            (part / "all.npy").unlink()
        else:
            (part / "all.npy").rename(part / "pixels.npy")
        if source.labels is not None:
            np.save(part / "labels.npy", np.asarray(source.labels, np.int64)[kept])
        names = [source.names[index] for index in kept]
        document = {
            "skipped": skipped,
            "names": names,
            "fingerprint": fingerprint.hexdigest(),
            "scaled": [source.names[index] for index in sorted(scaled)],
        }
        (part / "index.json").write_text(json.dumps(document))
        # Another process may have written the same folder in the meantime.
        if not folder.exists():
            part.rename(folder)


def _decode_all(
    source: ImageSource, count: int, size: int, channels: int, scaled: set[int]
) -> Iterator[tuple[int, str, NDArray[np.uint8] | Exception]]:
    """Yield the index of each image, a SHA-256, and its pixels or the error.

    The SHA-256 is that of the file, or of the decoded pixels if the source has no image files.
    Adds the images whose range of values was inferred to `scaled`.
    """

    def decode(index: int) -> tuple[int, str, NDArray[np.uint8] | Exception]:
        digest = "unreadable"
        try:
            file = source.file(index)
            if file is None:
                image = source.read(index)
                digest = _digest_of_pixels(image)
            else:
                digest = hashlib.sha256(file).hexdigest()
                image = decode_file(file)
            if image.info.get(SCALED):
                scaled.add(index)
            return index, digest, fit(image, size, channels)
        except Exception as error:  # noqa: BLE001 - decoders raise many kinds of errors
            return index, digest, error

    # In chunks, because map() would keep every decoded image of a large data set in memory.
    chunk = max(_CHUNK_BYTES // (size * size * channels), 16)
    # Small images in groups, because handing an image to a thread takes longer than decoding it.
    group = max(_GROUP_BYTES // (size * size * channels), 1)

    def decode_group(start: int) -> list[tuple[int, str, NDArray[np.uint8] | Exception]]:
        return [decode(index) for index in range(start, min(start + group, count))]

    # The chunks are whole numbers of groups.
    chunk = -(-chunk // group) * group
    with ThreadPoolExecutor() as pool:
        for start in range(0, count, chunk):
            for images in pool.map(decode_group, range(start, min(start + chunk, count), group)):
                yield from images


def _digest_of_pixels(image: Image.Image) -> str:
    header = f"{image.mode} {image.width}x{image.height} "
    return hashlib.sha256(header.encode() + image.tobytes()).hexdigest()


def _cache_key(source: ImageSource, options: DataOptions) -> str:
    """Return the cache key: a hash of the files' sizes and times, and of the decoding options."""
    location = options.locate()
    stats: list[object] = [str(location)]
    if isinstance(location, Path):
        for file in files_on_disk(location):
            status = file.stat()
            stats.append((file.as_posix(), status.st_size, status.st_mtime_ns))
    shape = (options.split, options.stored_size, options.channels, options.limit, len(source.names))
    selection = (options.classes, options.only, options.hold_out, options.half)
    key = repr((_CACHE_VERSION, stats, shape, selection))
    return hashlib.sha256(key.encode()).hexdigest()[:24]
