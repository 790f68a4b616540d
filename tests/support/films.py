"""Small films with known frames, times and sound; and what a film contains."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

RATE = 48_000
# Units of timestamps in a second.
TICKS = 90_000
# Seconds at which the tones of `tones` begin.
ONSETS = (0.5, 2.5)


def drawn_frame(number: int, width: int = 64, height: int = 48) -> np.ndarray:
    """Return a smooth image ``[H, W, 3]`` with a disk at a place that tells the frame's number."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([60 + x, 200 - 2 * y, np.full_like(x, 90)], -1).astype(np.float64)
    distance = np.hypot(x - 10 - 1.5 * (number % 24), y - height / 2)
    disk = np.clip((10 - distance) / 4, 0, 1)[..., None]
    return np.rint(image * (1 - disk) + np.array([230, 220, 60]) * disk).astype(np.uint8)


def tones(seconds: float) -> np.ndarray:
    """Return samples ``[1, N] int16``: silence, and 0.2 s of a tone at each of ONSETS."""
    time = np.arange(round(seconds * RATE)) / RATE
    sound = np.sin(2 * np.pi * 1000 * time) * 12_000
    audible = np.zeros_like(time, bool)
    for onset in ONSETS:
        audible |= (time >= onset) & (time < onset + 0.2)
    return np.where(audible, sound, 0).astype(np.int16)[None]


def regular(count: int, fps: int = 30) -> list[int]:
    """Return timestamps of a constant rate."""
    return [i * TICKS // fps for i in range(count)]


def irregular(count: int) -> list[int]:
    """Return timestamps of a variable rate: every third frame is shown half as long again."""
    times = [0]
    while len(times) < count:
        times.append(times[-1] + (4500 if len(times) % 3 == 0 else 3000))
    return times


def make_film(
    path: Path,
    times: Sequence[int],
    *,
    codec: str = "libx264",
    audio: str | None = None,
    audio_delay: float = 0,
    rotation: int = 0,
    matrix: int = 1,
    full_range: bool = False,
    size: tuple[int, int] = (64, 48),
    subtitles: bool = False,
) -> Path:
    """Write a film of `drawn_frame`s at `times`; `audio` is the codec of `tones`."""
    width, height = size
    with av.open(str(path), "w") as film:
        video = film.add_stream(codec, rate=30, options={"crf": "10", "b": "0"})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        video.codec_context.time_base = Fraction(1, TICKS)
        video.codec_context.colorspace = matrix
        video.codec_context.color_range = 2 if full_range else 1
        if rotation:
            video.set_display_rotation(rotation)
        sound = None
        if audio is not None:
            sound = film.add_stream(audio, rate=RATE)
            sound.codec_context.layout = "mono"
        text = film.add_mux_stream("subrip") if subtitles else None
        film.start_encoding()
        for number, pts in enumerate(times):
            rgb = av.VideoFrame.from_ndarray(drawn_frame(number, width, height), format="rgb24")
            frame = rgb.reformat(
                format="yuv420p", dst_colorspace=matrix, dst_color_range=2 if full_range else 1
            )
            frame.pts, frame.time_base, frame.duration = pts, Fraction(1, TICKS), 3000
            film.mux(video.encode(frame))
        film.mux(video.encode())
        if text is not None:
            packet = av.Packet(b"hello")
            packet.stream, packet.pts, packet.dts, packet.duration = text, 0, 0, 1000
            packet.time_base = Fraction(1, 1000)
            film.mux(packet)
        if sound is not None:
            samples = tones(times[-1] / TICKS)
            for first in range(0, samples.shape[1], 1024):
                part = np.ascontiguousarray(samples[:, first : first + 1024])
                frame = av.AudioFrame.from_ndarray(part, format="s16", layout="mono")
                frame.sample_rate, frame.time_base = RATE, Fraction(1, RATE)
                frame.pts = first + round(audio_delay * RATE)
                film.mux(sound.encode(frame))
            film.mux(sound.encode())
    return path


@dataclass(frozen=True)
class Content:
    """What a film contains.

    Attributes:
        frames: ``[N, H, W, 3]``.
        times: the time of each frame in seconds.
        onsets: the times in seconds at which sound begins after silence.
        sound_end: the time in seconds at which the sound ends; None without sound.
    """

    frames: np.ndarray
    times: np.ndarray
    onsets: list[float]
    sound_end: float | None


def content_of(path: Path) -> Content:
    """Decode a film."""
    with av.open(str(path)) as film:
        decoded = list(film.decode(video=0))
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in decoded])
        times = np.array([float(frame.pts * frame.time_base) for frame in decoded])
    onsets, end = [], None
    with av.open(str(path)) as film:
        if film.streams.audio:
            resampler = av.AudioResampler("s16", "mono", RATE)
            silent = True
            for decoded_sound in film.decode(audio=0):
                for frame in resampler.resample(decoded_sound):
                    start = float(frame.pts * frame.time_base)
                    samples = np.abs(frame.to_ndarray().astype(int)).reshape(-1)
                    for i in range(0, len(samples), 48):
                        loud = samples[i : i + 48].max() > 3000
                        if loud and silent:
                            onsets.append(start + i / RATE)
                        silent = not loud
                    end = start + len(samples) / RATE
    return Content(frames, times, onsets, end)


def psnr(image: np.ndarray, expected: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio in dB."""
    error = np.mean((image.astype(np.float64) - expected) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))
