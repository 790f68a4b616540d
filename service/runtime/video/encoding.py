"""Encodes frames as video: H.264 in MP4 and Matroska, VP9 in WebM.

Equal frames give equal bytes, on every machine with the same FFmpeg: conversions are bit-exact, the
number of threads depends on the size only, and files contain neither times nor random identifiers.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import numpy as np

from service.runtime.images.animation import DEFAULT_QUALITY
from service.runtime.images.encoding import Pixels, on_white
from service.runtime.images.xmp import SourceType
from service.runtime.video import ffmpeg
from service.runtime.video.containers import VideoContainer
from service.runtime.video.metadata import video_trailer, write_video_metadata

# Frames of at least this many pixels are encoded by several threads.
_PARALLEL_PIXELS = 2**19
_THREADS = 4
# Space for the index of an MP4 before the frames, in bytes: 8 for each frame (its size and, if the
# durations vary, its duration), 4 or 8 for each chunk and key frame, and the boxes around them.
_INDEX_BYTES = 4096
_INDEX_BYTES_PER_FRAME = 32


@dataclass(frozen=True)
class Color:
    """How RGB values become YUV: numbers of ITU-T H.273, as in FFmpeg and in the files.

    Attributes:
        matrix: the matrix coefficients; 1 is BT.709.
        full_range: whether luma has the range 0 to 255 instead of 16 to 235.
        primaries, transfer: only stored; RGB values are not changed.
    """

    matrix: int = 1
    full_range: bool = False
    primaries: int = 1
    transfer: int = 1


@dataclass(frozen=True)
class VideoSpec:
    """What an encoder needs before the first frame.

    Attributes:
        width, height: the size of the frames in pixels.
        rate: frames per second. For a variable rate, the average.
        time_base: the unit of timestamps in seconds; None for ``1 / rate``, a timestamp per frame.
        pixel_aspect: width by height of a pixel.
        key_frames: the maximum number of frames from one key frame to the next.
        frames: the number of frames if it is known.
        comment: the metadata of the file; without, it has none.
        source_type: the mark beside it, if any.
    """

    width: int
    height: int
    rate: Fraction
    time_base: Fraction | None = None
    quality: int = DEFAULT_QUALITY
    color: Color = Color()
    pixel_aspect: Fraction = Fraction(1)
    key_frames: int = 48
    frames: int | None = None
    comment: str = ""
    source_type: SourceType | None = None


def even(side: int) -> int:
    """Return the side of a video: codecs with chroma of half the size need an even number."""
    return side + side % 2


def to_yuv(pixels: Pixels, color: Color) -> Any:
    """Convert an image ``[H, W, C]`` of 1, 3 or 4 channels to a YUV 4:2:0 frame. Thread-safe.

    An RGBA image is composited on white. An odd side is extended by its last row or column.
    """
    av = ffmpeg.load()
    height, width, channels = pixels.shape
    if channels == 1:
        pixels = pixels.repeat(3, 2)
    elif channels == 4:
        pixels = on_white(pixels[..., :3], pixels[..., 3])
    if height % 2 or width % 2:
        pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
    rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    frame = rgb.reformat(
        format="yuv420p",
        dst_colorspace=swscale_matrix(color.matrix),
        dst_color_range=2 if color.full_range else 1,
        interpolation=ffmpeg.conversion_flags(),
    )
    frame.colorspace = color.matrix
    return frame


def swscale_matrix(matrix: int) -> int:
    """Return the number of a matrix in swscale, which knows one for both versions of BT.601."""
    return {6: 5, 10: 9}.get(matrix, matrix)


class VideoEncoder:
    """Writes a video frame by frame. Not thread-safe; use from one thread at a time.

    There are no B-frames: every frame is stored in the order and at the time at which it is shown.
    """

    def __init__(
        self, target: Path | IO[bytes], container: VideoContainer, spec: VideoSpec
    ) -> None:
        """Open `target`. Raises VideoUnavailable if FFmpeg was built without the encoder."""
        av = ffmpeg.load()
        try:
            av.codec.Codec(container.encoder, "w")
        except av.error.FFmpegError as error:
            raise VideoUnsupported(container) from error
        options = {"fflags": "+bitexact"}
        if container.muxer == "mp4":
            # The index comes before the frames, so that players can start with the first bytes.
            if spec.frames is None or isinstance(target, Path):
                options["movflags"] = "faststart"
            else:
                size = _INDEX_BYTES + _INDEX_BYTES_PER_FRAME * spec.frames + len(spec.comment)
                options["moov_size"] = str(size)
        file = str(target) if isinstance(target, Path) else target
        self._target = target
        self._trailer = video_trailer(container.muxer, spec.source_type)
        self._container = av.open(file, "w", format=container.muxer, container_options=options)
        if spec.comment:
            write_video_metadata(self._container, spec.comment, spec.source_type)
        self._time_base = spec.time_base or 1 / spec.rate
        stream = self._container.add_stream(
            container.encoder, rate=spec.rate, options=container.encoder_options(spec.quality)
        )
        context = stream.codec_context
        context.width, context.height = even(spec.width), even(spec.height)
        context.pix_fmt = "yuv420p"
        context.time_base = self._time_base
        context.sample_aspect_ratio = spec.pixel_aspect
        context.max_b_frames = 0
        context.gop_size = spec.key_frames
        pixels = context.width * context.height
        context.thread_count = _THREADS if pixels >= _PARALLEL_PIXELS else 1
        context.colorspace = spec.color.matrix
        context.color_range = 2 if spec.color.full_range else 1
        context.color_primaries = spec.color.primaries
        context.color_trc = spec.color.transfer
        self._stream = stream

    def add(self, frame: Any, pts: int, duration: int = 1) -> None:
        """Encode a frame from `to_yuv`, to be shown at `pts` for `duration`, in the time base."""
        frame.pts, frame.duration, frame.time_base = pts, duration, self._time_base
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Write the remaining frames, the index, and the mark."""
        self._container.mux(self._stream.encode(None))
        self._container.close()
        append(self._target, self._trailer)


def append(target: Path | IO[bytes], content: bytes) -> None:
    """Write `content` after a file that FFmpeg has closed. Raises OSError."""
    if isinstance(target, Path):
        with target.open("ab") as file:
            file.write(content)
    else:
        target.seek(0, io.SEEK_END)
        target.write(content)


class VideoUnsupported(ffmpeg.VideoUnavailable):
    """FFmpeg was built without the encoder of a container."""

    def __init__(self, container: VideoContainer) -> None:
        super().__init__(
            f"FFmpeg was built without {container.encoder}, which {container.extension} needs; "
            "choose another format"
        )
