"""Shuffled batches of sounds."""

from __future__ import annotations

import torch
from torch import Tensor

from training.data.sampler import ShuffledRows
from training.data.sounds.data import SoundData
from training.data.sounds.decoding import FULL_SCALE


class ShuffledSounds:
    """An endless sequence of shuffled batches of sounds, indexed by batch number."""

    def __init__(self, sounds: SoundData, batch: int, seed: int) -> None:
        self._sounds = sounds
        self._rows = ShuffledRows(len(sounds), batch, seed)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor | None]:
        """Return batch `number`: waveforms ``[B, 1, T]`` in [-1, 1), labels ``[B]`` or None."""
        rows = self._rows[number]
        labels = self._sounds.labels
        return (
            to_waveforms(torch.from_numpy(self._sounds.samples[rows])),
            None if labels is None else torch.from_numpy(labels[rows]),
        )


def to_waveforms(samples: Tensor) -> Tensor:
    """Convert ``[N, T] int16`` to waveforms ``[N, 1, T]`` in [-1, 1)."""
    return samples[:, None].float().div_(FULL_SCALE)
