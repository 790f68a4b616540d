"""Decodes every image of a data set once, and keeps what a report needs of it."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

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


@dataclass
class Scan:
    """The images of all splits, in order, and those that cannot be read, with the reason.

    `corrupt` are image files that cannot be decoded, `unreadable` those that the system or the
    archive does not return. The keys are the split and the name.
    """

    images: list[ScannedImage] = field(default_factory=list)
    corrupt: dict[tuple[str, str], str] = field(default_factory=dict)
    unreadable: dict[tuple[str, str], str] = field(default_factory=dict)


def scan(sources: Mapping[str, ImageSource], progress: Progress | None = None) -> Scan:
    """Decode the images of all splits, which are `sources` by name, in several threads."""
    result = Scan()
    total = sum(len(source.names) for source in sources.values())
    done = 0
    for split, source in sources.items():
        outcomes = in_threads(partial(_scan_image, split, source), range(len(source.names)))
        for row, outcome in enumerate(outcomes):
            done += 1
            if isinstance(outcome, ScannedImage):
                result.images.append(outcome)
            elif isinstance(outcome, OSError):
                result.unreadable[split, source.names[row]] = reason(outcome)
            else:
                result.corrupt[split, source.names[row]] = reason(outcome)
            if progress and (done % 32 == 0 or done == total):
                progress(done, total)
    return result


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
