"""Walks through latent space as MP4 and WebM, beside the animations of images."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import numpy as np

from service.runtime.images.animation import AnimationSpec
from service.runtime.images.encoding import KEYWORD, Pixels, provenance_text
from service.runtime.video import ffmpeg
from service.runtime.video.containers import CONTAINERS, VideoContainer
from service.runtime.video.encoding import Color, VideoEncoder, VideoSpec, to_yuv

# Denominators of frame rates such as 30000/1001.
_MAX_DENOMINATOR = 1001


class Video:
    """A video file. It is sent as a whole after the last frame, because its header lists all frames
    or its length; until then only compressed frames are kept.
    """

    heavy = True
    _container: VideoContainer

    def __init__(self, spec: AnimationSpec, target: Path | None = None) -> None:
        """Write to `target` instead, if given; `end` then returns nothing."""
        self.media_type, self.extension = self._container.media_type, self._container.extension
        self._spec = spec
        self._buffer = io.BytesIO()
        self._target = target
        self._encoder: VideoEncoder | None = None
        self._added = 0

    def encode(self, frame: int, pixels: Pixels) -> bytes:  # noqa: ARG002 - the provenance is in the file header
        """Convert to YUV 4:2:0."""
        return bytes(to_yuv(pixels, Color()).to_ndarray())

    def begin(self) -> bytes:
        """Open the encoder. Raises VideoUnavailable."""
        spec = self._spec
        rate = Fraction(spec.fps).limit_denominator(_MAX_DENOMINATOR)
        self._encoder = VideoEncoder(
            self._target or self._buffer,
            self._container,
            VideoSpec(
                spec.width,
                spec.height,
                rate,
                quality=spec.quality,
                # Two seconds, so that players can seek.
                key_frames=max(2, round(2 * rate)),
                frames=spec.frames,
                comment=f"{KEYWORD} {provenance_text(spec.provenance)}",
                source_type=spec.source_type,
            ),
        )
        return b""

    def add(self, encoded: bytes) -> bytes:
        """Encode the next frame."""
        assert self._encoder is not None  # noqa: S101 - `begin` comes first
        av = ffmpeg.load()
        width = self._spec.width + self._spec.width % 2
        yuv = np.frombuffer(encoded, np.uint8).reshape(-1, width)
        frame = av.VideoFrame.from_ndarray(yuv, format="yuv420p")
        frame.color_range, frame.colorspace = 1, Color().matrix
        self._encoder.add(frame, self._added)
        self._added += 1
        return b""

    def end(self) -> bytes:
        """Return the whole file."""
        assert self._encoder is not None  # noqa: S101 - `begin` comes first
        self._encoder.close()
        return self._buffer.getvalue()


class Mp4(Video):
    """H.264 in MP4."""

    _container = CONTAINERS["mp4"]


class WebM(Video):
    """VP9 in WebM."""

    _container = CONTAINERS["webm"]


VIDEO_WRITERS: dict[str, type[Video]] = {"mp4": Mp4, "webm": WebM}
