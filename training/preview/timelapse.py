"""Videos and animations of a run, made from its sample sheets.

A sheet shows the images of fixed latents, or of fixed inputs, after a number of training images,
which is the name of its file. A frame is a sheet with this number below it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from service.runtime.errors import UserError
from service.runtime.files import replacing
from service.runtime.images import xmp
from service.runtime.images.animation import WRITERS, AnimationSpec, AnimationWriter
from service.runtime.images.xmp import SourceType
from service.runtime.video.animation import VIDEO_WRITERS

Pixels = NDArray[np.uint8]
# Called with the number of written frames and the total.
Progress = Callable[[int, int], None]

FORMATS = (*VIDEO_WRITERS, "gif", "webp", "png")
_SHEET = re.compile(r"(\d+)\.png")
# Sheets are enlarged by a whole factor up to at least this width, so that small images can be seen.
_WIDTH = 480
_MAX_WIDTH = 1920
_MARGIN = 6
_BACKGROUND, _TEXT, _BAR = (24, 24, 27), (228, 228, 231), (99, 102, 241)


class NoSamples(UserError):
    """A run has no sample sheets that can be read."""


@dataclass(frozen=True)
class Sheet:
    """A sample sheet: its file, the images seen when it was made, and its size in pixels."""

    path: Path
    images: int
    size: tuple[int, int]


@dataclass(frozen=True)
class Timing:
    """How long sheets are shown: `fps` sheets per second, the last one `hold` seconds longer."""

    fps: float
    hold: float

    @classmethod
    def of_duration(cls, seconds: float, sheets: int, hold: float) -> Timing:
        """Return the timing with which all sheets last `seconds` in total, the hold included.

        The hold is at most half of the time, and a whole number of frames.
        """
        hold = min(hold, seconds / 2)
        repeats = round(hold * sheets / (seconds - hold))
        fps = (sheets + repeats) / seconds
        return cls(fps, repeats / fps)

    def frames(self, sheets: int) -> int:
        """Return the number of frames: one for each sheet, and repetitions of the last."""
        return sheets + round(self.hold * self.fps)


def find_sheets(folder: Path) -> tuple[list[Sheet], list[str]]:
    """Return the sample sheets in a folder, in the order of the training, and what is left out.

    Raises NoSamples if no sheet can be read.
    """
    sheets, left_out = [], []
    for path in sorted(folder.glob("*.png")) if folder.is_dir() else []:
        match = _SHEET.fullmatch(path.name)
        if match is None:
            left_out.append(f"{path}: not a sample sheet")
            continue
        try:
            with Image.open(path) as image:
                image.load()
                sheets.append(Sheet(path, int(match[1]), image.size))
        except (OSError, SyntaxError, ValueError) as error:
            left_out.append(f"{path}: cannot be read: {error}")
    if not sheets:
        reason = f"; {left_out[0]}" if left_out else ""
        raise NoSamples(f"{folder} has no sample sheets{reason}")
    return sorted(sheets, key=lambda sheet: sheet.images), left_out


def gaps(sheets: Sequence[Sheet], interval: int) -> list[str]:
    """Return where sheets are missing: distances of more than twice `interval` images."""
    seen = [0, *(sheet.images for sheet in sheets)]
    return [
        f"no sample sheet between {before:,} and {after:,} images"
        for before, after in pairwise(seen)
        if after - before > 2 * interval
    ]


class Frames:
    """Draws sheets of one size, which is that of the largest sheet."""

    def __init__(self, sheets: Sequence[Sheet], total: int, scale: int | None = None) -> None:
        """`total` is the number of training images at which the bar below the sheet is full.

        Sheets are enlarged by the factor `scale`; by default to a width of at least 480 pixels.
        """
        self._sheets, self._total = sheets, max(total, sheets[-1].images, 1)
        width = max(sheet.size[0] for sheet in sheets)
        height = max(sheet.size[1] for sheet in sheets)
        scale = scale or max(1, min(-(-_WIDTH // width), _MAX_WIDTH // width))
        self._sheet_size = (width * scale, height * scale)
        self._font = ImageFont.load_default(max(12, min(width * scale // 28, 32)))
        top, bottom = self._font.getbbox("0,")[1::2]
        self._text_top = top
        caption = round(bottom - top) + 3 * _MARGIN
        # Even sides: most video codecs need them.
        self.width = self._sheet_size[0] + self._sheet_size[0] % 2
        self.height = self._sheet_size[1] + caption + (self._sheet_size[1] + caption) % 2

    def __len__(self) -> int:
        return len(self._sheets)

    @property
    def source_type(self) -> SourceType:
        """The source type in the mark of the last sheet. Sheets of earlier versions have none."""
        try:
            marked = xmp.read_source_type(self._sheets[-1].path.read_bytes())
        except OSError:
            marked = None
        return SourceType.of_sheet(shows_inputs=marked == SourceType.COMPOSITE.uri)

    def __iter__(self) -> Iterator[Pixels]:
        """Yield the frames ``[H, W, 3] uint8``. A sheet that has vanished repeats the last one."""
        frame = np.zeros((self.height, self.width, 3), np.uint8)
        for sheet in self._sheets:
            try:
                with Image.open(sheet.path) as image:
                    frame = self._draw(image, sheet.images)
            except (OSError, SyntaxError, ValueError):
                pass  # Read a moment ago; the run may be replacing it.
            yield frame

    def _draw(self, sheet: Image.Image, images: int) -> Pixels:
        canvas = Image.new("RGB", (self.width, self.height), _BACKGROUND)
        area = self._sheet_size
        shown = _flattened(sheet)
        # Sheets of growing networks, and those before a change of the data, may be smaller.
        factor = min(area[0] / shown.width, area[1] / shown.height)
        size = (round(shown.width * factor), round(shown.height * factor))
        shown = shown.resize(size, Image.Resampling.NEAREST)
        canvas.paste(shown, ((area[0] - size[0]) // 2, (area[1] - size[1]) // 2))
        draw = ImageDraw.Draw(canvas)
        done = round(self.width * images / self._total)
        draw.rectangle((0, area[1], done - 1, area[1] + _MARGIN // 2), fill=_BAR)
        y = area[1] + 2 * _MARGIN - self._text_top
        draw.text((_MARGIN, y), f"{images:,} images", fill=_TEXT, font=self._font)
        return np.asarray(canvas)


def write_timelapse(
    frames: Frames, timing: Timing, out: Path, name: str, progress: Progress | None = None
) -> None:
    """Write the frames as an animation or video of the format that the suffix of `out` names.

    The file appears when it is complete. Raises UserError for another suffix,
    VideoUnavailable, CannotWrite.
    """
    kind = output_format(out)
    total = timing.frames(len(frames))
    provenance = {"run": name, "fps": timing.fps}
    spec = AnimationSpec(
        frames=total,
        height=frames.height,
        width=frames.width,
        channels=3,
        fps=timing.fps,
        provenance=provenance,
        frame_provenance=lambda _: provenance,
        source_type=frames.source_type,
    )
    with replacing(out) as temporary, temporary.open("wb") as file:
        writer = _writer(kind, spec)
        file.write(writer.begin())
        frame = np.zeros((frames.height, frames.width, 3), np.uint8)
        for number, frame in enumerate(frames):
            file.write(writer.add(writer.encode(number, frame)))
            if progress:
                progress(number + 1, total)
        for number in range(len(frames), total):
            file.write(writer.add(writer.encode(number, frame)))
        file.write(writer.end())


def output_format(out: Path) -> str:
    """Return the format that the suffix of a file names. Raises UserError."""
    kind = out.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        known = ", ".join(f".{each}" for each in FORMATS)
        raise UserError(f"--out: expected a file name that ends in {known}; got {out.name}")
    return kind


def _writer(kind: str, spec: AnimationSpec) -> AnimationWriter:
    return VIDEO_WRITERS[kind](spec) if kind in VIDEO_WRITERS else WRITERS[kind](spec)


def _flattened(sheet: Image.Image) -> Image.Image:
    """Return an RGB image; transparent pixels are composited on white."""
    if not sheet.has_transparency_data:
        return sheet.convert("RGB")
    sheet = sheet.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", sheet.size, "white"), sheet).convert("RGB")
