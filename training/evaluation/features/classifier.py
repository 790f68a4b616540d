"""A small judge of classes: a convolutional network that learnt from the real pictures.

It is told apart by what it learnt from and how, and kept in the cache under that name. A tenth of
the pictures it never sees: its own accuracy is measured on them and stated with every figure that
rests on it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from service.runtime.files import cache_folder
from training.checkpoints import write_state
from training.data.images import ImageData
from training.data.sampler import ShuffledBatches
from training.evaluation.errors import QualityError

# A class shows at this size, in pixels a side; what is larger is averaged down to it.
_LOOKED_AT = 32
_BATCH = 128
_JUDGED_AT_ONCE = 512

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ClassifierSettings:
    """How the judge learns; with the pictures, all that it depends on."""

    width: int = 24
    # Pictures shown, counted anew in every epoch.
    images: int = 300_000
    learning_rate: float = 3e-3
    # One picture in so many is held out.
    held_out: int = 10
    flip: bool = False
    seed: int = 0


class ClassifierNetwork(nn.Module):
    """Pictures ``[N, C, H, W] uint8`` to a logit for each class ``[N, classes]``."""

    def __init__(self, channels: int, size: int, classes: int, width: int) -> None:
        super().__init__()
        self.shrink = max(size // _LOOKED_AT, 1)
        size //= self.shrink
        layers: list[nn.Module] = []
        fan_in = channels
        for multiple in (1, 2, 4):
            fan_out = width * multiple
            layers += [
                nn.Conv2d(fan_in, fan_out, 3, padding=1, bias=False),
                nn.BatchNorm2d(fan_out),
                nn.ReLU(inplace=True),
                nn.MaxPool2d(2),
            ]
            fan_in, size = fan_out, size // 2
        self.features = nn.Sequential(*layers)
        self.classify = nn.Linear(fan_in * size**2, classes)

    def forward(self, pixels: Tensor) -> Tensor:
        x = F.avg_pool2d(pixels.float() / 127.5 - 1, self.shrink)
        logits: Tensor = self.classify(self.features(x).flatten(1))
        return logits


@dataclass(frozen=True)
class Classifier:
    """A judge that has learnt, and how often it was right on pictures that it had never seen."""

    network: ClassifierNetwork
    accuracy: float
    learnt_from: int
    held_out: int

    def classes_of(self, pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return the class ``[N] int64`` of each of ``[N, H, W, C] uint8``."""
        return _discriminator_loss(self.network, pixels)


def trained_classifier(
    pictures: ImageData,
    resolution: int,
    settings: ClassifierSettings | None = None,
    progress: Progress | None = None,
) -> Classifier:
    """Return the judge of `pictures`, of `resolution` pixels a side, from the cache where it is.

    Depends on the pictures and the settings alone. `progress` hears how many pictures have been
    shown, of how many. Raises QualityError.
    """
    settings = settings or ClassifierSettings()
    if pictures.labels is None or len(pictures.class_names) < 2:
        raise QualityError("the data have no classes that a classifier could learn")
    order = np.random.default_rng(settings.seed).permutation(len(pictures))
    held = len(order) // settings.held_out
    if not held:
        raise QualityError(f"{len(order)} pictures are too few to hold some out")
    # Sorted, so that rows are read from the mapped file in the order in which they lie.
    held_out, learnt = np.sort(order[:held]), np.sort(order[held:])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = ClassifierNetwork(
            pictures.pixels.shape[-1], resolution, len(pictures.class_names), settings.width
        )
    path = cache_folder("classifiers") / f"{_fingerprint(pictures, network, settings)}.pt"
    if path.exists():
        kept = torch.load(path, weights_only=True)
        network.load_state_dict(kept["network"])
        return Classifier(network.eval(), kept["accuracy"], len(learnt), held)
    seen = replace(
        pictures, pixels=pictures.pixels[learnt], labels=pictures.labels[learnt], skipped=()
    )
    _learn(
        network,
        ShuffledBatches(seen, _BATCH, resolution, flip=settings.flip, seed=settings.seed),
        settings,
        progress,
    )
    margin = (pictures.pixels.shape[1] - resolution) // 2
    middle = slice(margin, margin + resolution)
    found = _discriminator_loss(network, pictures.pixels[held_out][:, middle, middle])
    accuracy = float((found == pictures.labels[held_out]).mean())
    write_state({"network": network.state_dict(), "accuracy": accuracy}, path)
    return Classifier(network, accuracy, len(learnt), held)


def _learn(
    network: ClassifierNetwork,
    batches: ShuffledBatches,
    settings: ClassifierSettings,
    progress: Progress | None,
) -> None:
    """Leave the network in evaluation."""
    steps = max(settings.images // _BATCH, 1)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=steps
    )
    network.train()
    for step in range(steps):
        pixels, labels = batches[step]
        assert labels is not None  # noqa: S101 - for the type checker
        optimizer.zero_grad()
        F.cross_entropy(network(pixels), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if progress:
            progress((step + 1) * _BATCH, steps * _BATCH)
    network.eval()


@torch.no_grad()
def _discriminator_loss(network: ClassifierNetwork, pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
    images = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2)
    parts = [network(part).argmax(1) for part in torch.split(images, _JUDGED_AT_ONCE)]
    found: NDArray[np.int64] = torch.cat(parts).numpy()
    return found


def _fingerprint(
    pictures: ImageData, network: ClassifierNetwork, settings: ClassifierSettings
) -> str:
    """Name a judge by the pictures' content, its layers and how it learns."""
    digest = hashlib.sha256(repr((pictures.pixels.shape, network, asdict(settings))).encode())
    rows = max(2**24 // pictures.pixels[0].size, 1)
    for start in range(0, len(pictures), rows):
        digest.update(pictures.pixels[start : start + rows].tobytes())
    if pictures.labels is not None:
        digest.update(pictures.labels.tobytes())
    return digest.hexdigest()[:24]
