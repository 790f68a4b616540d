"""The video containers that are written: their codecs, and what they can hold beside the video."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath


@dataclass(frozen=True)
class VideoContainer:
    """A kind of video file.

    Attributes:
        muxer: FFmpeg's name of the container.
        encoder: FFmpeg's name of the video encoder.
        crf: constant rate factors for quality 0 and 100; values between are interpolated.
        options: further options of the encoder.
        audio: the audio codecs that are copied unchanged. Others are encoded by `audio_encoder`.
        subtitles: the subtitle codecs that are copied. Others are left out.
    """

    extension: str
    muxer: str
    media_type: str
    encoder: str
    crf: tuple[int, int]
    options: tuple[tuple[str, str], ...]
    audio: frozenset[str]
    audio_encoder: str
    subtitles: frozenset[str]

    def encoder_options(self, quality: int) -> dict[str, str]:
        """Return the options of the video encoder for a quality of 1 to 100."""
        worst, best = self.crf
        return {**dict(self.options), "crf": str(round(worst + (best - worst) * quality / 100))}


_X264 = ("libx264", (50, 10), (("preset", "medium"),))
# Constant quality needs a bit rate of 0. Threads would change the result, see `VideoEncoder`.
_VP9 = ("libvpx-vp9", (63, 18), (("b", "0"), ("deadline", "good"), ("cpu-used", "3")))

CONTAINERS = {
    each.extension: each
    for each in (
        VideoContainer(
            "mp4",
            "mp4",
            "video/mp4",
            *_X264,
            frozenset({"aac", "mp3", "ac3", "eac3", "alac", "opus"}),
            "aac",
            frozenset({"mov_text"}),
        ),
        VideoContainer(
            "webm",
            "webm",
            "video/webm",
            *_VP9,
            frozenset({"opus", "vorbis"}),
            "libopus",
            frozenset({"webvtt"}),
        ),
        VideoContainer(
            "mkv",
            "matroska",
            "video/x-matroska",
            *_X264,
            frozenset(
                {"aac", "mp3", "mp2", "ac3", "eac3", "alac", "opus", "vorbis", "flac", "dts"}
                | {"pcm_s16le", "pcm_s24le", "pcm_f32le", "truehd"}
            ),
            "aac",
            frozenset({"subrip", "ass", "webvtt"}),
        ),
    )
}


def container_of(path: str | PurePath) -> VideoContainer | None:
    """Return the container for the suffix of a file name; None for other files."""
    return CONTAINERS.get(PurePath(path).suffix[1:].lower())
