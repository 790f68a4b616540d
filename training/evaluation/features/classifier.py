"""A small convolutional classifier for class accuracy, trained on the real images.

The weights are cached; the cache key contains the training images and the settings. A tenth of the
images is held out to measure the accuracy of the classifier, which is reported with every class
accuracy.
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

# Larger images are downsampled to this side in pixels, which is enough to recognize a class.
_INPUT_SIDE = 32
_BATCH = 128
_EVALUATION_BATCH = 512

# Called with the number of processed training images, and the total number.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ClassifierSettings:
    """Training settings. Together with the images, they determine the weights."""

    width: int = 24
    # Number of training images over all epochs.
    images: int = 300_000
    learning_rate: float = 3e-3
    # One in this many images is held out.
    held_out: int = 10
    flip: bool = False
    seed: int = 0


class ClassifierNetwork(nn.Module):
    """Maps images ``[N, C, H, W] uint8`` to logits ``[N, classes]``."""

    def __init__(self, channels: int, size: int, classes: int, width: int) -> None:
        super().__init__()
        self.shrink = max(size // _INPUT_SIDE, 1)
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
    """A trained classifier and its accuracy on the held-out images.

    `trained_on` and `held_out` are numbers of images.
    """

    network: ClassifierNetwork
    accuracy: float
    trained_on: int
    held_out: int

    def classes_of(self, pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return the predicted classes ``[N]`` of images ``[N, H, W, C] uint8``."""
        return _predict(self.network, pixels)


def trained_classifier(
    images: ImageData,
    resolution: int,
    settings: ClassifierSettings | None = None,
    progress: Progress | None = None,
) -> Classifier:
    """Train a classifier on images of `resolution` pixels a side, or load it from the cache.

    The result depends only on the images and the settings. Writes the weights to the cache. Raises
    QualityError if there are fewer than two classes, or too few images.
    """
    settings = settings or ClassifierSettings()
    if images.labels is None or len(images.class_names) < 2:
        raise QualityError("the data set has no classes: a classifier needs at least two")
    order = np.random.default_rng(settings.seed).permutation(len(images))
    held = len(order) // settings.held_out
    if not held:
        raise QualityError(
            f"{len(order)} images are too few: at least {settings.held_out} are needed, one of "
            "which is held out"
        )
    # Sorted, so that memory-mapped files are read in order.
    held_out, training = np.sort(order[:held]), np.sort(order[held:])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = ClassifierNetwork(
            images.pixels.shape[-1], resolution, len(images.class_names), settings.width
        )
    path = cache_folder("classifiers") / f"{_fingerprint(images, network, settings)}.pt"
    if path.exists():
        cached = torch.load(path, weights_only=True)
        network.load_state_dict(cached["network"])
        return Classifier(network.eval(), cached["accuracy"], len(training), held)
    data = replace(
        images, pixels=images.pixels[training], labels=images.labels[training], skipped=()
    )
    batches = ShuffledBatches(data, _BATCH, resolution, flip=settings.flip, seed=settings.seed)
    _train(network, batches, settings, progress)
    margin = (images.pixels.shape[1] - resolution) // 2
    center = slice(margin, margin + resolution)
    predicted = _predict(network, images.pixels[held_out][:, center, center])
    accuracy = float((predicted == images.labels[held_out]).mean())
    write_state({"network": network.state_dict(), "accuracy": accuracy}, path)
    return Classifier(network, accuracy, len(training), held)


def _train(
    network: ClassifierNetwork,
    batches: ShuffledBatches,
    settings: ClassifierSettings,
    progress: Progress | None,
) -> None:
    """Train the network and switch it to eval mode."""
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
def _predict(network: ClassifierNetwork, pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
    images = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2)
    parts = [network(part).argmax(1) for part in torch.split(images, _EVALUATION_BATCH)]
    classes: NDArray[np.int64] = torch.cat(parts).numpy()
    return classes


def _fingerprint(
    images: ImageData, network: ClassifierNetwork, settings: ClassifierSettings
) -> str:
    """Return a cache key of the images' content, the layers and the settings."""
    digest = hashlib.sha256(repr((images.pixels.shape, network, asdict(settings))).encode())
    rows = max(2**24 // images.pixels[0].size, 1)
    for start in range(0, len(images), rows):
        digest.update(images.pixels[start : start + rows].tobytes())
    if images.labels is not None:
        digest.update(images.labels.tobytes())
    return digest.hexdigest()[:24]
