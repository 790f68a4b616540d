"""Joins encoded segments of a film with the sound of the original.

Nothing is encoded again but sound that the container cannot hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from service.runtime.images.xmp import SourceType
from service.runtime.video import ffmpeg
from service.runtime.video.containers import VideoContainer
from service.runtime.video.encoding import append
from service.runtime.video.film import FilmInfo
from service.runtime.video.metadata import MATROSKA_TAG, video_trailer, write_video_metadata

# Metadata that describes the original file instead of the film.
_OF_THE_FILE = frozenset(
    {"major_brand", "minor_version", "compatible_brands", "encoder", "duration", "comment"}
    | {MATROSKA_TAG.lower()}
)


@dataclass(frozen=True)
class Times:
    """The times of the frames, in the time base of the film, and the duration of the last one."""

    pts: Sequence[int]
    last_duration: int

    def duration(self, frame: int) -> int:
        """Return how long a frame is shown."""
        if frame + 1 < len(self.pts):
            return self.pts[frame + 1] - self.pts[frame]
        return self.last_duration


def assemble(
    film: Path,
    info: FilmInfo,
    segments: Sequence[Path],
    times: Times,
    out: Path,
    container: VideoContainer,
    comment: str,
) -> list[str]:
    """Write the video of `segments` at `times`, with sound and subtitles of `film`, to `out`.

    Returns descriptions of what was left out or encoded again. Raises OSError and FFmpegError.
    """
    av = ffmpeg.load()
    options = {"fflags": "+bitexact"}
    if container.muxer == "mp4":
        options["movflags"] = "faststart"
    with (
        av.open(
            str(film), container_options={"protocol_whitelist": "file"}, metadata_errors="replace"
        ) as source,
        av.open(str(out), "w", format=container.muxer, container_options=options) as target,
    ):
        for name, text in source.metadata.items():
            if name.lower() not in _OF_THE_FILE:
                target.metadata[name] = text
        write_video_metadata(target, comment, SourceType.COMPOSITE)
        with av.open(str(segments[0])) as segment:
            video = target.add_stream_from_template(segment.streams.video[0])
        video.time_base = info.time_base
        tracks = [
            _Track.of(stream, target, container, info.start)
            for stream in source.streams
            if stream.index != info.stream
        ]
        notes = [track.note for track in tracks if track.note]
        if any(source.chapters()) and info.start == 0:
            target.set_chapters(source.chapters())
        kept = {track.source.index: track for track in tracks if track.target is not None}
        frames = _video_packets(av, segments, times, video, info)
        sound = _other_packets(source, kept)
        for packet in _by_time(frames, sound):
            target.mux(packet)
    append(out, video_trailer(container.muxer, SourceType.COMPOSITE))
    return notes


@dataclass
class _Track:
    """A stream of the original beside its video; `target` is None if it is left out."""

    source: Any
    target: Any
    shift: int
    is_encoded: bool
    note: str

    @classmethod
    def of(cls, stream: Any, target: Any, container: VideoContainer, start: Fraction) -> _Track:
        """Add a stream to `target` if its container can hold it."""
        context = stream.codec_context
        # Decoders of some codecs have other names than the codecs.
        codec = "unknown" if context is None else context.codec.canonical_name
        shift = 0 if stream.time_base is None else round(start / stream.time_base)
        copied = container.audio if stream.type == "audio" else container.subtitles
        if stream.type in ("audio", "subtitle") and codec in copied:
            output, is_encoded, note = target.add_stream_from_template(stream), False, ""
        elif stream.type == "audio" and context is not None:
            rate = 48_000 if container.audio_encoder == "libopus" else context.sample_rate
            output = target.add_stream(container.audio_encoder, rate=rate)
            output.codec_context.layout = context.layout.name
            is_encoded, note = True, f"sound encoded again: {codec} as {container.audio_encoder}"
        else:
            return cls(stream, None, shift, False, f"left out: {stream.type} ({codec})")
        if (language := stream.metadata.get("language")) is not None:
            output.metadata["language"] = language
        return cls(stream, output, shift, is_encoded, note)

    def packets(self, packet: Any) -> Iterator[Any]:
        """Yield the output for a packet of the original; an empty one ends the stream."""
        if self.is_encoded:
            for frame in packet.decode():
                if frame.pts is not None:
                    frame.pts -= self.shift
                yield from self.target.encode(frame)
            if packet.size == 0:
                yield from self.target.encode(None)
        elif packet.size and packet.dts is not None:
            packet.stream = self.target
            packet.dts -= self.shift
            if packet.pts is not None:
                packet.pts -= self.shift
            yield packet


def _video_packets(
    av: Any, segments: Sequence[Path], times: Times, stream: Any, info: FilmInfo
) -> Iterator[tuple[Fraction, Any]]:
    """Yield the video with the time of each packet. There is one packet for each frame, in order,
    because there are no B-frames.
    """
    number = 0
    for path in segments:
        with av.open(str(path)) as segment:
            for packet in segment.demux(video=0):
                if packet.size == 0:
                    continue
                packet.stream = stream
                packet.time_base = info.time_base
                packet.pts = packet.dts = times.pts[number]
                packet.duration = times.duration(number)
                yield times.pts[number] * info.time_base, packet
                number += 1
    if number != len(times.pts):
        raise OSError(f"the segments hold {number} frames, expected {len(times.pts)}")


def _other_packets(source: Any, tracks: dict[int, _Track]) -> Iterator[tuple[Fraction, Any]]:
    """Yield the packets of the other streams with their times."""
    if not tracks:
        return
    time = Fraction(0)
    for packet in source.demux([track.source for track in tracks.values()]):
        track = tracks[packet.stream.index]
        if packet.dts is not None and packet.time_base is not None:
            time = (packet.dts - track.shift) * packet.time_base
        for output in track.packets(packet):
            yield time, output


def _by_time(
    first: Iterator[tuple[Fraction, Any]], second: Iterator[tuple[Fraction, Any]]
) -> Iterator[Any]:
    """Merge two iterators of packets by time, so that the muxer buffers little."""
    left, right = next(first, None), next(second, None)
    while left is not None or right is not None:
        if right is None or (left is not None and left[0] <= right[0]):
            yield left[1]  # type: ignore[index]
            left = next(first, None)
        else:
            yield right[1]
            right = next(second, None)
