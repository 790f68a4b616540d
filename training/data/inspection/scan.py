"""Decodes every image of a data set once, and keeps what a report needs of it."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar

from PIL import Image

from training.data.inspection.duplicates import Appearance, appearance
from training.data.sources.source import SCALED, ImageSource, decode

T = TypeVar("T")
# Called with the number of images that are done, and the total.
Progress = Callable[[int, int], None]

# Images of one call of map(), between which an interrupt takes effect.
_CHUNK = 512
# More threads would hold too many large images at once.
_MAX_THREADS = 16


@dataclass(frozen=True)
class ScannedImage:
    """One readable image. `split` is "" in data without splits, `label` None without classes.

    `width` and `height` are in pixels, of the upright image. `mode` and `format` are Pillow's, of
    the file; None where the source has no image files. `frames` is above 1 for animations and files
    with several pages, of which the first one is read. `scaled` is True if the range of the values
    was inferred.
    """

    split: str
    row: int
    name: str
    label: int | None
    width: int
    height: int
    mode: str
    format: str | None
    frames: int
    scaled: bool
    appearance: Appearance


class ScannedFile(Protocol):
    """What reports need of a readable image or sound."""

    @property
    def split(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def label(self) -> int | None: ...


@dataclass
class Failures:
    """Files that cannot be read, with the reason.

    `corrupt` are files that cannot be decoded, `unreadable` those that the system or the archive
    does not return. The keys are the split and the name.
    """

    corrupt: dict[tuple[str, str], str] = field(default_factory=dict)
    unreadable: dict[tuple[str, str], str] = field(default_factory=dict)

    @property
    def failed(self) -> dict[tuple[str, str], str]:
        """All of them."""
        return {**self.corrupt, **self.unreadable}

    def add_failure(self, split: str, name: str, error: object) -> None:
        """Add the file that raised `error`."""
        assert isinstance(error, Exception)  # noqa: S101 - the type of `scanned`
        kind = self.unreadable if isinstance(error, OSError) else self.corrupt
        kind[split, name] = reason(error)


@dataclass
class Scan(Failures):
    """The images of all splits, in order, and those that cannot be read."""

    images: list[ScannedImage] = field(default_factory=list)


def scan(sources: Mapping[str, ImageSource], progress: Progress | None = None) -> Scan:
    """Decode the images of all splits, which are `sources` by name, in several threads."""
    result = Scan()
    for split, name, outcome in scanned(sources, _scan_image, progress):
        if isinstance(outcome, ScannedImage):
            result.images.append(outcome)
        else:
            result.add_failure(split, name, outcome)
    return result


def scanned(
    sources: Mapping[str, ImageSource],
    read: Callable[[str, ImageSource, int], T],
    progress: Progress | None = None,
) -> Iterator[tuple[str, str, T | Exception]]:
    """Call `read` with each split, its source and row, in threads, and yield the results or errors.

    Each one comes with the split and the name.
    """
    total = sum(len(source.names) for source in sources.values())
    done = 0
    for split, source in sources.items():
        outcomes = in_threads(partial(read, split, source), range(len(source.names)))
        for name, outcome in zip(source.names, outcomes, strict=True):
            done += 1
            yield split, name, outcome
            if progress and (done % 32 == 0 or done == total):
                progress(done, total)


def in_threads(function: Callable[[int], T], rows: Sequence[int]) -> Iterator[T | Exception]:
    """Call a function for each row, in threads. Yields the results or errors, in order."""

    def call(row: int) -> T | Exception:
        try:
            return function(row)
        except Exception as error:  # noqa: BLE001 - decoders raise many kinds of errors
            return error

    with ThreadPoolExecutor(min(os.cpu_count() or 1, _MAX_THREADS)) as pool:
        for start in range(0, len(rows), _CHUNK):
            yield from pool.map(call, rows[start : start + _CHUNK])


def _scan_image(split: str, source: ImageSource, row: int) -> ScannedImage:
    data = source.file(row)
    image = source.read(row) if data is None else decode(data)
    mode, format_, frames = (image.mode, None, 1) if data is None else _header(data)
    return ScannedImage(
        split=split,
        row=row,
        name=source.names[row],
        label=None if source.labels is None else source.labels[row],
        width=image.width,
        height=image.height,
        mode=mode,
        format=format_,
        frames=frames,
        scaled=bool(image.info.get(SCALED)),
        appearance=appearance(image),
    )


def _header(data: bytes) -> tuple[str, str | None, int]:
    """Return mode, format and number of frames of an image file that can be decoded."""
    with Image.open(io.BytesIO(data)) as image:
        mode, format_ = image.mode, image.format
        # An MPO file is a photograph with previews and depth maps, not an animation.
        try:
            frames = 1 if format_ == "MPO" else int(getattr(image, "n_frames", 1))
        except Exception:  # noqa: BLE001 - later frames may be damaged
            frames = 1
    return mode, format_, frames


def reason(error: Exception) -> str:
    """Return the reason of an error in one line, without the file name that it repeats."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).splitlines() or [type(error).__name__])[0]
