"""Log-mel spectrograms: what the ear hears of a sound, as an image."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

# Quieter parts count as silence, in decibels below full scale.
FLOOR_DB = -80.0
_MELS = 64
# Windows are 32 ms long and start every 8 ms.
_WINDOWS_PER_SECOND = 1 / 0.032
_HOPS_PER_WINDOW = 4


def log_mel(waveforms: Tensor, rate: int) -> Tensor:
    """Return log-mel spectrograms ``[N, 64, frames]`` of waveforms ``[N, T]`` in [-1, 1].

    The values are in [0, 1], from `FLOOR_DB` to 0 dB of a full-scale sine. Bands are in ascending
    order of frequency, from 0 Hz to half of the `rate`.
    """
    size = max(round(rate / _WINDOWS_PER_SECOND), 16)
    window = torch.hann_window(size, device=waveforms.device)
    spectrum = torch.stft(
        waveforms.float(),
        size,
        max(size // _HOPS_PER_WINDOW, 1),
        window=window,
        center=True,
        pad_mode="constant",
        return_complex=True,
    )
    # A full-scale sine has the amplitude 1.
    power = (spectrum.abs() * (2 / window.sum())).square()
    mel = _filters(rate, size).to(waveforms.device) @ power
    decibels = 10 * mel.clamp(min=1e-10).log10()
    return ((decibels - FLOOR_DB) / -FLOOR_DB).clamp(0, 1)


@cache
def _filters(rate: int, size: int) -> Tensor:
    """Return triangular filters on the mel scale, ``[64, size // 2 + 1]``, with a peak of 1.

    Every filter is at least one band of the spectrum wide.
    """
    frequencies = torch.linspace(0, rate / 2, size // 2 + 1)
    top = 2595 * torch.log10(torch.tensor(1 + rate / 2 / 700))
    points = 700 * (10 ** (torch.linspace(0, float(top), _MELS + 2) / 2595) - 1)
    spacing = rate / size
    low = torch.minimum(points[:-2], points[1:-1] - spacing)[:, None]
    high = torch.maximum(points[2:], points[1:-1] + spacing)[:, None]
    center = points[1:-1, None]
    rising = (frequencies - low) / (center - low)
    falling = (high - frequencies) / (high - center)
    return torch.minimum(rising, falling).clamp(min=0)
