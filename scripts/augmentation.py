#!/usr/bin/env python3
"""Measure how synthetic images affect a classifier with few real ones: see docs/augmentation.md.

    python scripts/augmentation.py measure --model cgan-fashion

A generator that has seen no more than the classifier:

    python scripts/augmentation.py subset data/few        # 100 labeled images per class
    ganymede train cgan-fashion data.path=data/few …
    ganymede export runs/cgan-fashion --name few-fashion
    python scripts/augmentation.py measure --model few-fashion --pool data/few --real 100

The classifier is defined in training/evaluation/features/classifier.py. Every row of the table is
the mean and the standard deviation of the accuracy of several classifiers on the 10,000 test
images. They differ in their seeds, and in the real images, which are drawn from the pool.
"""

import argparse
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from service.runtime.models.catalog import find_model
from service.runtime.onnx.execution_plans import Planner
from service.runtime.onnx.sessions import pick_provider
from training.data.datasets import KNOWN_DATASETS, locate_dataset
from training.data.sources import open_source
from training.evaluation.features.classifier import ClassifierNetwork

NAME = "fashion-mnist"
CLASSES = KNOWN_DATASETS[NAME].class_names
SUBSET = 100
STEPS, BATCH, WIDTH = 600, 64, 24
# The farthest shift of an augmented image, in pixels.
SHIFT = 2

# Gray images ``[N, 1, H, W] uint8`` and their classes ``[N]``.
Labeled = tuple[NDArray[np.uint8], NDArray[np.int64]]


def write_subset(out: Path) -> None:
    """Write the first images of each class to a folder per class."""
    source = open_source(locate_dataset(NAME), "train")
    counts = dict.fromkeys(range(len(CLASSES)), 0)
    for i, label in enumerate(source.labels):
        if counts[label] < SUBSET:
            folder = out / CLASSES[label]
            folder.mkdir(parents=True, exist_ok=True)
            source.read(i).save(folder / f"{counts[label]:03}.png")
            counts[label] += 1


def read(source) -> Labeled:
    """Return the images of a source, with the indices of their classes in `CLASSES`."""
    images = [np.asarray(source.read(i).convert("L")) for i in range(len(source.names))]
    labels = np.array(source.labels)
    # Folders are named after their classes; the published files have numbers.
    if set(source.class_names) == set(CLASSES):
        labels = np.array([CLASSES.index(name) for name in source.class_names])[labels]
    return np.stack(images)[:, None], labels


def draw(pool: Labeled, per_class: int, seed: int) -> Labeled:
    """Draw `per_class` images of each class."""
    if (least := np.bincount(pool[1], minlength=len(CLASSES)).min()) < per_class:
        sys.exit(f"--real {per_class}: the pool has a class with {least} images")
    rng = np.random.default_rng(seed)
    rows = np.concatenate(
        [
            rng.permutation(np.flatnonzero(pool[1] == label))[:per_class]
            for label in range(len(CLASSES))
        ]
    )
    return pool[0][rows], pool[1][rows]


def shifted_and_mirrored(images: Tensor, rng: torch.Generator) -> Tensor:
    """Shift each image ``[N, 1, H, W]`` by up to `SHIFT` pixels and mirror one in two."""
    count, _, height, width = images.shape
    padded = F.pad(images, [SHIFT] * 4)
    y, x = torch.randint(2 * SHIFT + 1, (2, count), generator=rng)
    rows, columns = y[:, None] + torch.arange(height), x[:, None] + torch.arange(width)
    shifted = padded[torch.arange(count)[:, None, None], 0, rows[:, :, None], columns[:, None]]
    mirrors = torch.rand(count, generator=rng) < 0.5
    return torch.where(mirrors[:, None, None], shifted.flip(-1), shifted)[:, None]


def accuracy(training: Labeled, test: Labeled, seed: int, *, transforms: bool) -> float:
    """Train a classifier and return its accuracy on the test images."""
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    pixels, classes = map(torch.from_numpy, training)
    network = ClassifierNetwork(1, pixels.shape[-1], len(CLASSES), WIDTH)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        rows = torch.randint(len(pixels), (BATCH,), generator=rng)
        images = shifted_and_mirrored(pixels[rows], rng) if transforms else pixels[rows]
        loss = F.cross_entropy(network(images), classes[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    network.eval()
    with torch.inference_mode():
        parts = [network(part).argmax(1) for part in torch.from_numpy(test[0]).split(1000)]
    return float((torch.cat(parts).numpy() == test[1]).mean())


def generate(models: Path, name: str, per_class: int) -> list[NDArray[np.uint8]]:
    """Return `per_class` images of a model for each class."""
    model = find_model(models, name, Planner(pick_provider("auto")))
    indices = [model.manifest.classes.index(each) for each in CLASSES]
    return [
        np.concatenate(
            [
                model.generate(range(start, start + 50), [indices[label]] * 50)
                for start in range(label * per_class, (label + 1) * per_class, 50)
            ]
        ).transpose(0, 3, 1, 2)
        for label in range(len(CLASSES))
    ]


def settings(reals: list[int], synthetics: list[int]) -> Iterator[tuple[int, int, bool]]:
    """Yield the numbers of real and synthetic images, and whether images are transformed."""
    for real in reals:
        for transforms in (False, True):
            for synthetic in (0, *synthetics):
                if real or synthetic:
                    yield real, synthetic, transforms


def measure(arguments: argparse.Namespace) -> None:
    """Print the table of accuracies."""
    pool = read(open_source(arguments.pool or locate_dataset(NAME), "train"))
    test = read(open_source(locate_dataset(NAME), "test"))
    generated = generate(arguments.models, arguments.model, max(arguments.synthetic))
    print("| real images per class | synthetic images per class | transforms | accuracy, % |")
    print("|---|---|---|---|")
    for real, synthetic, transforms in settings(arguments.real, arguments.synthetic):
        added = np.concatenate([each[:synthetic] for each in generated])
        labels = np.repeat(np.arange(len(CLASSES)), synthetic)
        accuracies = []
        for seed in range(arguments.repeats):
            images, classes = draw(pool, real, seed)
            training = np.concatenate([images, added]), np.concatenate([classes, labels])
            accuracies.append(100 * accuracy(training, test, seed, transforms=transforms))
        mean, deviation = statistics.mean(accuracies), statistics.stdev(accuracies)
        name = "shifts, mirroring" if transforms else "none"
        print(f"| {real} | {synthetic} | {name} | {mean:.1f} ± {deviation:.1f} |", flush=True)


def main() -> None:
    """Parse the command line and run `subset` or `measure`."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("subset").add_argument("out", type=Path)
    measuring = commands.add_parser("measure")
    measuring.add_argument("--model", required=True)
    measuring.add_argument("--models", type=Path, default=Path("models"))
    measuring.add_argument("--pool", type=Path, help="real images; default: all of the split train")
    measuring.add_argument("--real", type=int, nargs="+", default=[10, 30, 100, 0])
    measuring.add_argument("--synthetic", type=int, nargs="+", default=[100, 1000])
    measuring.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.command == "subset":
        write_subset(arguments.out)
    else:
        measure(arguments)


if __name__ == "__main__":
    sys.exit(main())
