"""A small convolutional classifier of sounds, on log-mel spectrograms, and its features.

It is trained on the real sounds of the training split. The weights are cached; the key contains the
sounds, the layers and the settings.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from service.runtime.files import cache_folder
from training.checkpoints import write_state
from training.data.sampler import ShuffledRows
from training.data.sounds.data import SoundData
from training.data.sounds.decoding import FULL_SCALE
from training.data.sounds.spectrograms import log_mel

_BATCH = 64
# The largest shift of a training sound, in frames of the spectrogram.
_SHIFT = 6

# Called with the number of processed training sounds, and the total number.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ClassifierSettings:
    """Training settings. Together with the sounds, they determine the weights."""

    width: int = 16
    # Number of training sounds over all epochs.
    sounds: int = 30_000
    learning_rate: float = 3e-3
    seed: int = 0


class ClassifierNetwork(nn.Module):
    """Maps log-mel spectrograms ``[N, bands, frames]`` to logits ``[N, classes]``."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        fan_in = 1
        for number, multiple in enumerate((1, 2, 4, 8)):
            fan_out = width * multiple
            layers += [
                nn.Conv2d(fan_in, fan_out, 3, stride=1 if number else 2, padding=1, bias=False),
                nn.BatchNorm2d(fan_out),
                nn.ReLU(inplace=True),
                nn.MaxPool2d(2, ceil_mode=True) if number else nn.Identity(),
            ]
            fan_in = fan_out
        self.layers = nn.Sequential(*layers)
        self.classify = nn.Linear(fan_in, classes)

    def features(self, spectrograms: Tensor) -> Tensor:
        """Return the features ``[N, 8 · width]``: means over the spectrogram."""
        features: Tensor = self.layers(spectrograms[:, None]).mean((2, 3))
        return features

    def forward(self, spectrograms: Tensor) -> Tensor:
        logits: Tensor = self.classify(self.features(spectrograms))
        return logits


@dataclass(frozen=True)
class SoundClassifier:
    """A trained classifier for sounds of `rate` Hz."""

    network: ClassifierNetwork
    rate: int
    trained_on: int

    @torch.no_grad()
    def describe(self, samples: NDArray[np.int16]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return classes ``[N]`` and features ``[N, d]`` of sounds ``[N, T] int16``."""
        classes, features = [], []
        for start in range(0, len(samples), _BATCH):
            part = self.network.features(_spectrograms(samples[start : start + _BATCH], self.rate))
            features.append(part.numpy())
            classes.append(self.network.classify(part).argmax(1).numpy())
        return np.concatenate(classes), np.concatenate(features)


def trained_classifier(
    sounds: SoundData,
    rate: int,
    settings: ClassifierSettings | None = None,
    progress: Progress | None = None,
) -> SoundClassifier:
    """Train a classifier on sounds of `rate` Hz with classes, or load it from the cache."""
    settings = settings or ClassifierSettings()
    assert sounds.labels is not None  # noqa: S101 - checked by the caller
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = ClassifierNetwork(len(sounds.class_names), settings.width)
    digest = hashlib.sha256(repr((sounds.samples.shape, rate, network, asdict(settings))).encode())
    digest.update(sounds.samples.tobytes())
    digest.update(sounds.labels.tobytes())
    path = cache_folder("classifiers") / f"{digest.hexdigest()[:24]}.pt"
    if path.exists():
        network.load_state_dict(torch.load(path, weights_only=True)["network"])
    else:
        _train(network, sounds, rate, settings, progress)
        write_state({"network": network.state_dict()}, path)
    return SoundClassifier(network.eval(), rate, len(sounds))


def _train(
    network: ClassifierNetwork,
    sounds: SoundData,
    rate: int,
    settings: ClassifierSettings,
    progress: Progress | None,
) -> None:
    inputs, labels = _spectrograms(sounds.samples, rate), torch.from_numpy(sounds.labels)
    rows, steps = ShuffledRows(len(sounds), _BATCH, settings.seed), settings.sounds // _BATCH
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=steps
    )
    network.train()
    for step in range(steps):
        batch = torch.from_numpy(rows[step])
        # Shifted in time, so that the position of a word does not matter.
        shift = int(np.random.default_rng([settings.seed, 1, step]).integers(0, _SHIFT + 1))
        shifted = F.pad(inputs[batch], (shift, 0))[..., : inputs.shape[-1]]
        optimizer.zero_grad()
        F.cross_entropy(network(shifted), labels[batch]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if progress:
            progress((step + 1) * _BATCH, steps * _BATCH)


def _spectrograms(samples: NDArray[np.int16], rate: int) -> Tensor:
    parts = [
        log_mel(
            torch.from_numpy(samples[start : start + _BATCH].astype(np.float32)) / FULL_SCALE, rate
        )
        for start in range(0, len(samples), _BATCH)
    ]
    return torch.cat(parts)
