"""Small sound data sets, made at test time."""

import io
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

RATE = 8000


def tone(frequency: float, seconds: float, rate: int = RATE) -> NDArray[np.float64]:
    """Return a sine with an amplitude of 0.5, ``[T]``."""
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)


def sound_file(
    samples: NDArray[np.float64], rate: int = RATE, kind: str = "WAV", subtype: str | None = None
) -> bytes:
    """Return a file of samples ``[T]`` or ``[T, channels]``."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


def write_tones(folder: Path, count: int = 24) -> Path:
    """Write two classes of noisy tones, in the splits `train` and `test`; return the folder.

    The split `test` has a quarter of the sounds.
    """
    rng = np.random.default_rng(0)
    for split, number in (("train", count), ("test", max(count // 4, 2))):
        for name, frequency in (("high", 2000.0), ("low", 300.0)):
            (folder / split / name).mkdir(parents=True)
            for i in range(number // 2):
                samples = tone(frequency * rng.uniform(0.8, 1.25), rng.uniform(0.05, 0.15))
                samples += rng.normal(0, 0.02, len(samples))
                path = folder / split / name / f"{split}-{i}.wav"
                path.write_bytes(sound_file(samples))
    return folder
