"""Reads films: the frames of a video file as upright RGB images, with their exact times."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from service.runtime.errors import UserError, first_line
from service.runtime.files import open_regular
from service.runtime.formatting import counted
from service.runtime.images.encoding import Pixels
from service.runtime.video import ffmpeg
from service.runtime.video.encoding import Color, swscale_matrix

# Numbers of ITU-T H.273.
_UNSPECIFIED = 2
_HDR_TRANSFERS = {16: "PQ", 18: "HLG"}
_MATRICES = frozenset({1, 5, 6, 7, 9})
# Untagged films of at least this many lines are BT.709, others BT.601, as players assume.
_HD_LINES = 720
# FFmpeg's demuxers for single images.
_IMAGE_DEMUXERS = ("image2", "_pipe")
# A film is cut off if it ends this much before the time in its header, in seconds.
_MISSING_S = Fraction(1, 2)


class NotAFilm(UserError):
    """The file has no video that can be read."""


class FilmDamaged(UserError):
    """The film cannot be read beyond a frame."""

    exit_code = 1


@dataclass(frozen=True)
class FilmFrame:
    """One frame: `pixels` ``[H, W, 3]``, shown at `pts` for `duration`, in the film's time base."""

    number: int
    pts: int
    duration: int
    pixels: Pixels


@dataclass(frozen=True)
class FilmInfo:
    """What is known of a film before it is decoded.

    Attributes:
        width, height: the upright size in pixels.
        rate: the average number of frames per second.
        frames: the number of frames; an estimate if `frames_are_exact` is false; None if unknown.
        end: the time in seconds at which the video ends, according to its header, or None.
        start: the time in seconds that becomes 0. Sound that starts later keeps its distance.
        pixel_aspect: width by height of an upright pixel.
        turns: quarter turns counterclockwise that make a stored frame upright.
        stream: the index of the video among the streams of the file.
    """

    width: int
    height: int
    time_base: Fraction
    rate: Fraction
    frames: int | None
    frames_are_exact: bool
    end: Fraction | None
    start: Fraction
    pixel_aspect: Fraction
    turns: int
    color: Color
    stream: int


class FilmReader:
    """A film whose frames are read once, in order."""

    def __init__(self, path: Path) -> None:
        """Open a film and read its first frame. Raises NotAFilm and VideoUnavailable."""
        self.path = path
        self._av = av = ffmpeg.load()
        try:
            open_regular(path).close()
            # A playlist could name files on other machines.
            self._container = av.open(
                str(path),
                container_options={"protocol_whitelist": "file"},
                metadata_errors="replace",
            )
        except OSError as error:
            raise NotAFilm(f"{path} cannot be read: {error.strerror or error}") from error
        except av.error.FFmpegError as error:
            raise NotAFilm(f"{path} is not a film, or it is damaged at its start") from error
        try:
            self._stream = self._video_stream()
            self._stream.thread_type = "AUTO"
            self._decoded = self._decode()
            try:
                self._first = next(self._decoded)
            except StopIteration:
                raise NotAFilm(f"{path} has a video stream without frames") from None
            except FilmDamaged as error:
                raise NotAFilm(f"{path} cannot be decoded: its first frame is damaged") from error
            self.info = self._read_info(self._first)
        except BaseException:
            self._container.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def frames(self, first: int = 0) -> Iterator[FilmFrame]:
        """Yield the frames from number `first` on. The others are decoded, too.

        Raises FilmDamaged at a frame that cannot be read, or if the film ends early.
        """
        info = self.info
        shift = round(info.start / info.time_base)
        usual = max(1, round(1 / (info.rate * info.time_base)))
        number = last = expected = 0
        for frame in chain([self._first], self._decoded):
            if (frame.width, frame.height) != (self._first.width, self._first.height):
                raise FilmDamaged(f"{self.path} changes its size at frame {number:,}")
            pts = expected if frame.pts is None else frame.pts - shift
            if number and pts <= last:
                raise FilmDamaged(
                    f"{self.path}: the time of frame {number:,} is not after the one before it"
                )
            last = pts
            duration = frame.duration or usual
            expected = pts + duration
            if number >= first:
                yield FilmFrame(number, pts, duration, self._pixels(frame))
            number += 1
        is_short = info.end is not None and expected * info.time_base + _MISSING_S < info.end
        if is_short or (info.frames_are_exact and number < (info.frames or 0)):
            raise FilmDamaged(
                f"{self.path} ends after {counted(number, 'frame')}, before the time in its "
                "header: it is cut off or damaged"
            )

    def _video_stream(self) -> Any:
        name = self._container.format.name
        if name.endswith(_IMAGE_DEMUXERS[1]) or name == _IMAGE_DEMUXERS[0]:
            raise NotAFilm(f"{self.path} is an image, not a film")
        cover = self._av.stream.Disposition.attached_pic
        streams = [each for each in self._container.streams.video if not each.disposition & cover]
        if not streams:
            kinds = ", ".join(sorted({each.type for each in self._container.streams})) or "nothing"
            raise NotAFilm(f"{self.path} has no video: it contains {kinds}")
        return streams[0]

    def _decode(self) -> Iterator[Any]:
        """Yield the decoded frames. Raises FilmDamaged."""
        number = 0
        try:
            for packet in self._container.demux(self._stream):
                for frame in packet.decode():
                    yield frame
                    number += 1
        except self._av.error.FFmpegError as error:
            raise FilmDamaged(
                f"{self.path} is damaged after frame {number:,}: {first_line(error)}"
            ) from error

    def _read_info(self, first: Any) -> FilmInfo:
        stream = self._stream
        time_base = Fraction(stream.time_base)
        rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
        start = Fraction(self._container.start_time or 0, self._av.time_base)
        end = None
        if stream.duration is not None:
            end = (stream.start_time or 0) * time_base + stream.duration * time_base - start
        elif (text := stream.metadata.get("DURATION")) is not None:
            end = _seconds(text)
        elif self._container.duration and len(self._container.streams) == 1:
            end = Fraction(self._container.duration, self._av.time_base)
        exact = stream.frames > 0
        count = stream.frames if exact else None if end is None else round(end * rate)
        turns = round(first.rotation / 90) % 4
        width, height = (first.height, first.width) if turns % 2 else (first.width, first.height)
        aspect = Fraction(stream.sample_aspect_ratio or 1) or Fraction(1)
        if turns % 2:
            aspect = 1 / aspect
        color = _color_of(first)
        if color.transfer in _HDR_TRANSFERS:
            raise NotAFilm(
                f"{self.path} is an HDR film ({_HDR_TRANSFERS[color.transfer]}); models work on "
                "standard dynamic range: convert it first"
            )
        return FilmInfo(
            width,
            height,
            time_base,
            rate,
            count,
            exact,
            end,
            start,
            aspect,
            turns,
            color,
            stream.index,
        )

    def _pixels(self, frame: Any) -> Pixels:
        """Return a frame as upright RGB."""
        options: dict[str, Any] = {}
        if not frame.format.is_rgb:
            color = self.info.color
            options = {
                "src_colorspace": swscale_matrix(color.matrix),
                "src_color_range": 2 if color.full_range else 1,
                "dst_color_range": 2,
            }
        rgb = frame.reformat(format="rgb24", interpolation=ffmpeg.conversion_flags(), **options)
        pixels: Pixels = np.ascontiguousarray(np.rot90(rgb.to_ndarray(), self.info.turns))
        return pixels


def _color_of(frame: Any) -> Color:
    """Return the color of a frame; what the film does not state is assumed as players do."""
    if frame.format.is_rgb:
        return Color()
    matrix = frame.colorspace
    if matrix not in _MATRICES:
        matrix = 1 if frame.height >= _HD_LINES else 6
    usual = {1: 1, 9: 9}.get(matrix, 6)
    primaries, transfer = (
        usual if value in (0, _UNSPECIFIED) else value
        for value in (frame.color_primaries, frame.color_trc)
    )
    if transfer == 9:
        transfer = 14
    full = frame.color_range == 2 or frame.format.name.startswith("yuvj")
    return Color(matrix, full, primaries, transfer)


def _seconds(text: str) -> Fraction | None:
    """Parse the duration tag of Matroska, ``HH:MM:SS.fraction``."""
    try:
        hours, minutes, seconds = text.split(":")
        return 3600 * int(hours) + 60 * int(minutes) + Fraction(seconds)
    except ValueError:
        return None
