#!/usr/bin/env python3
"""Measure how synthetic images affect a classifier with few real ones: see docs/augmentation.md.

    python scripts/augmentation.py subset data/few        # 100 labeled images per class
    ganymede train cgan-fashion data.path=data/few …      # a generator trained on these only
    ganymede export runs/cgan-fashion --name few-fashion
    python scripts/augmentation.py measure data/few --model few-fashion

The classifier is defined in training/evaluation/features/classifier.py. Every row of the table is
the mean and the standard deviation of the accuracy of several classifiers with different seeds, on
the 10,000 test images.
"""

import argparse
import statistics
import sys
from pathlib import Path

import numpy as np
import torch

from service.runtime.models.catalog import find_model
from service.runtime.onnx.execution_plans import Planner
from service.runtime.onnx.sessions import pick_provider
from training.data.datasets import KNOWN_DATASETS, locate_dataset
from training.data.sources import open_source
from training.evaluation.features.classifier import ClassifierNetwork

NAME = "fashion-mnist"
PER_CLASS = 100
SYNTHETIC_COUNTS = (0, 100, 1000)
STEPS, BATCH, WIDTH = 600, 64, 24


def subset(out: Path) -> None:
    """Write the first images of each class to a folder per class."""
    source = open_source(locate_dataset(NAME), "train")
    names = KNOWN_DATASETS[NAME].class_names
    counts = dict.fromkeys(range(len(names)), 0)
    for i, label in enumerate(source.labels):
        if counts[label] < PER_CLASS:
            folder = out / names[label]
            folder.mkdir(parents=True, exist_ok=True)
            source.read(i).save(folder / f"{counts[label]:03}.png")
            counts[label] += 1


def arrays(source) -> tuple[np.ndarray, np.ndarray]:
    """Return gray images ``[N, 1, H, W]`` and labels ``[N]``."""
    images = [np.asarray(source.read(i).convert("L")) for i in range(len(source.names))]
    return np.stack(images)[:, None], np.array(source.labels)


def accuracy(images, labels, test, seed: int) -> float:
    """Train a classifier and return its accuracy on the test images."""
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    pixels, classes = torch.from_numpy(images), torch.from_numpy(labels)
    network = ClassifierNetwork(1, pixels.shape[-1], 10, WIDTH)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        rows = torch.randint(len(pixels), (BATCH,), generator=rng)
        loss = torch.nn.functional.cross_entropy(network(pixels[rows]), classes[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    network.eval()
    with torch.inference_mode():
        parts = [network(part).argmax(1) for part in torch.from_numpy(test[0]).split(1000)]
    return float((torch.cat(parts).numpy() == test[1]).mean())


def measure(real_folder: Path, model_name: str, models: Path, repeats: int) -> None:
    """Print the table of accuracies."""
    model = find_model(models, model_name, Planner(pick_provider("auto")))
    class_names = KNOWN_DATASETS[NAME].class_names
    source = open_source(real_folder, "train")
    real_images, labels = arrays(source)
    real_labels = np.array([class_names.index(name) for name in source.class_names])[labels]
    test = arrays(open_source(locate_dataset(NAME), "test"))
    class_indices = [model.manifest.classes.index(name) for name in class_names]
    max_count = max(SYNTHETIC_COUNTS)
    synthetic = [
        np.concatenate(
            [
                model.generate(range(start, start + 50), [class_indices[label]] * 50)
                for start in range(label * max_count, (label + 1) * max_count, 50)
            ]
        ).transpose(0, 3, 1, 2)
        for label in range(10)
    ]
    print("| real images per class | synthetic images per class | accuracy, % | deviation |")
    print("|---|---|---|---|")
    for real in (PER_CLASS, 0):
        for count in SYNTHETIC_COUNTS:
            if not real and count != max_count:
                continue
            images = [real_images] * bool(real) + [each[:count] for each in synthetic]
            labels = [real_labels] * bool(real) + [np.full(count, label) for label in range(10)]
            accuracies = [
                100 * accuracy(np.concatenate(images), np.concatenate(labels), test, seed)
                for seed in range(repeats)
            ]
            mean, deviation = statistics.mean(accuracies), statistics.stdev(accuracies)
            print(f"| {real} | {count} | {mean:.1f} | ± {deviation:.1f} |", flush=True)


def main() -> None:
    """Parse the command line and run `subset` or `measure`."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("subset").add_argument("out", type=Path)
    measuring = commands.add_parser("measure")
    measuring.add_argument("real", type=Path)
    measuring.add_argument("--model", required=True)
    measuring.add_argument("--models", type=Path, default=Path("models"))
    measuring.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.command == "subset":
        subset(arguments.out)
    else:
        measure(arguments.real, arguments.model, arguments.models, arguments.repeats)


if __name__ == "__main__":
    sys.exit(main())
