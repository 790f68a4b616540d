"""Decodes sound files: WAV, FLAC, Ogg and the other formats of libsndfile."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.runtime.audio.metadata import is_cut_off
from training.data.sounds.options import SoundOptions

# Full scale of int16 samples: 1.0 as a float.
FULL_SCALE = 2**15


class SoundDecodeError(ValueError):
    """A file is not a sound, or is damaged."""


@dataclass(frozen=True)
class Sound:
    """A decoded file: `samples` ``[T, channels] float32`` in [-1, 1] at `rate` Hz.

    `format` is libsndfile's name, such as ``WAV``, and `encoding` that of the samples.
    """

    samples: NDArray[np.float32]
    rate: int
    format: str
    encoding: str

    @property
    def channels(self) -> int:
        return int(self.samples.shape[1])

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate


@dataclass(frozen=True)
class FittedSound:
    """A sound of the rate and length of `SoundOptions`, and how it was changed.

    `samples` are ``[T] int16``. `length` is the number of samples before padding and cropping.
    `clipped` is True if samples were beyond full scale, which floating-point files can contain.
    """

    samples: NDArray[np.int16]
    length: int
    resampled: bool
    mixed_down: bool
    clipped: bool


def decode_sound(data: bytes) -> Sound:
    """Decode a whole sound file. Raises SoundDecodeError if it is damaged, empty or cut off."""
    import soundfile  # noqa: PLC0415 - recipes of images are read without it

    if not data:
        raise SoundDecodeError("the file is empty")
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            samples = file.read(dtype="float32", always_2d=True)
            sound = Sound(samples, file.samplerate, file.format, file.subtype)
            expected = file.frames
    except (soundfile.SoundFileError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).removeprefix("Error opening ").partition(": ")[2] or str(error)
        raise SoundDecodeError(f"cannot be decoded: {reason.strip()}") from error
    if not len(samples):
        raise SoundDecodeError("has no samples")
    if is_cut_off(data):
        raise SoundDecodeError("is cut off: the file ends before its samples do")
    if len(samples) < expected:
        raise SoundDecodeError(f"is cut off after {len(samples):,} of {expected:,} samples")
    if not np.isfinite(samples).all():
        raise SoundDecodeError("has samples that are not finite")
    return sound


def fit_sound(sound: Sound, options: SoundOptions) -> FittedSound:
    """Mix down, resample, scale, and pad or crop a sound."""
    mono = sound.samples.mean(1, dtype=np.float64)
    resampled = sound.rate != options.rate
    if resampled:
        mono = resample(mono, sound.rate, options.rate)
    length = len(mono)
    fitted = np.zeros(options.samples)
    kept = mono[: options.samples]
    if options.peak is not None:
        kept = kept * (options.peak / max(float(np.abs(kept).max()), 1e-9))
    fitted[: len(kept)] = kept
    clipped = bool(np.abs(fitted).max() > 1)
    return FittedSound(to_int16(fitted), length, resampled, sound.channels > 1, clipped)


def resample(samples: NDArray[np.float64], rate: int, new_rate: int) -> NDArray[np.float64]:
    """Resample ``[T]`` from `rate` to `new_rate` Hz with a polyphase filter."""
    from scipy.signal import resample_poly  # noqa: PLC0415 - only for data of other rates

    divisor = math.gcd(rate, new_rate)
    resampled: NDArray[np.float64] = resample_poly(samples, new_rate // divisor, rate // divisor)
    return resampled


def to_int16(samples: NDArray[np.floating]) -> NDArray[np.int16]:
    """Convert samples in [-1, 1] to int16; the inverse of a division by `FULL_SCALE`."""
    levels = np.clip(np.rint(samples * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1)
    converted: NDArray[np.int16] = levels.astype(np.int16)
    return converted
