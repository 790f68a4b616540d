"""Draws audio: the waveform above the spectrogram."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]

WIDTH, WAVE_HEIGHT, SPECTROGRAM_HEIGHT = 384, 96, 128
_WINDOW = 256
# Decibels below the loudest value that are still drawn.
_RANGE_DB = 80.0
_BACKGROUND, _WAVE = (16, 18, 28), (122, 197, 255)
# From silent to loud.
_COLORS = np.array([(16, 18, 28), (74, 32, 108), (188, 55, 84), (249, 142, 9), (252, 255, 164)])


def preview_image(samples: NDArray[Any]) -> Pixels:
    """Return an image ``[224, 384, 3]`` of the samples ``[T] int16``.

    The height of the waveform is that of full scale; the spectrogram has low frequencies at the
    bottom, up to half the sample rate, and a range of 80 dB.
    """
    return np.concatenate([_waveform(samples), _spectrogram(samples)])


def _waveform(samples: NDArray[Any]) -> Pixels:
    image = np.full((WAVE_HEIGHT, WIDTH, 3), _BACKGROUND, np.uint8)
    edges = np.linspace(0, len(samples), WIDTH + 1).astype(int)
    middle = (WAVE_HEIGHT - 1) / 2
    for x in range(WIDTH):
        part = samples[edges[x] : max(edges[x + 1], edges[x] + 1)].astype(np.float64) / 32768
        top, bottom = (round(middle * (1 - value)) for value in (part.max(), part.min()))
        image[top : bottom + 1, x] = _WAVE
    return image


def _spectrogram(samples: NDArray[Any]) -> Pixels:
    padded = np.pad(samples.astype(np.float64) / 32768, _WINDOW // 2)
    starts = np.linspace(0, len(padded) - _WINDOW, WIDTH).astype(int)
    frames = np.stack([padded[start : start + _WINDOW] for start in starts])
    power = np.abs(np.fft.rfft(frames * np.hanning(_WINDOW), axis=1)) ** 2
    decibels = 10 * np.log10(power + 1e-12)
    levels = np.clip((decibels - decibels.max()) / _RANGE_DB + 1, 0, 1)
    if not samples.any():
        levels[:] = 0
    position = levels.T[::-1] * (len(_COLORS) - 1)
    colors = np.stack(
        [np.interp(position, np.arange(len(_COLORS)), _COLORS[:, i]) for i in range(3)], axis=-1
    )
    image = Image.fromarray(colors.astype(np.uint8))
    return np.asarray(image.resize((WIDTH, SPECTROGRAM_HEIGHT), Image.Resampling.BILINEAR))
