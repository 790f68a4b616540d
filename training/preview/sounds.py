"""Sheets of sounds: the waveform of each, with its spectrogram below."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from training.data.sounds.decoding import FULL_SCALE
from training.data.sounds.spectrograms import log_mel
from training.preview.grids import grid

_WIDTH = 128
_WAVE_HEIGHT = 32
_SPECTROGRAM_HEIGHT = 64
_GAP = 4
# Between two sounds in a file, in seconds.
_PAUSE = 0.2
_INK, _PAPER = (31, 78, 121), 255
# Colors of the spectrogram from silence to full scale, evenly spaced.
_COLORS = np.array(
    [(0, 0, 4), (59, 15, 112), (140, 41, 129), (222, 73, 104), (254, 159, 109), (252, 253, 191)],
    np.float64,
)


def sound_sheet(samples: NDArray[np.int16], rate: int, in_a_row: int | None = None) -> Image.Image:
    """Arrange sounds ``[N, T] int16`` in a grid, in rows of `in_a_row`; default: nearly square."""
    waves = [_waveform(each) for each in samples]
    waveforms = torch.from_numpy(samples.astype(np.float32) / FULL_SCALE)
    spectrograms = [_spectrogram(each.numpy()) for each in log_mel(waveforms, rate)]
    cells = np.full(
        (len(samples), _WAVE_HEIGHT + _SPECTROGRAM_HEIGHT + _GAP, _WIDTH + _GAP, 3),
        _PAPER,
        np.uint8,
    )
    for cell, wave, spectrogram in zip(cells, waves, spectrograms, strict=True):
        cell[:_WAVE_HEIGHT, :_WIDTH] = wave
        cell[_WAVE_HEIGHT:-_GAP, :_WIDTH] = spectrogram
    return grid(cells, in_a_row)


def in_a_row(samples: NDArray[np.int16], rate: int) -> NDArray[np.int16]:
    """Join sounds ``[N, T] int16`` to one, with a short silence between two."""
    silence = np.zeros((len(samples), round(rate * _PAUSE)), np.int16)
    joined: NDArray[np.int16] = np.concatenate([samples, silence], 1).reshape(-1)
    return joined[: -silence.shape[1] or None]


def _waveform(samples: NDArray[np.int16]) -> NDArray[np.uint8]:
    """Draw the range of the samples in each column: ``[H, W, 3] uint8``."""
    image = np.full((_WAVE_HEIGHT, _WIDTH, 3), _PAPER, np.uint8)
    middle = (_WAVE_HEIGHT - 1) / 2
    for column, part in enumerate(np.array_split(samples.astype(np.float64), _WIDTH)):
        if not len(part):
            continue
        top = round(middle - part.max() / FULL_SCALE * middle)
        bottom = round(middle - part.min() / FULL_SCALE * middle)
        image[top : bottom + 1, column] = _INK
    return image


def _spectrogram(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Color a spectrogram ``[bands, frames]`` with values in [0, 1], high frequencies on top."""
    gray = Image.fromarray(np.round(values[::-1] * 255).astype(np.uint8))
    resized = gray.resize((_WIDTH, _SPECTROGRAM_HEIGHT), Image.Resampling.BILINEAR)
    position = np.asarray(resized) / 255
    steps = np.linspace(0, 1, len(_COLORS))
    channels = [np.interp(position, steps, _COLORS[:, channel]) for channel in range(3)]
    return np.stack(channels, -1).round().astype(np.uint8)
