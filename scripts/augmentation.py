#!/usr/bin/env python3
"""What synthetic pictures do for a classifier that has few real ones: see docs/augmentation.md.

    python scripts/augmentation.py subset data/few        # 100 labelled pictures a class
    ganymede train cgan-fashion data.path=data/few …      # a generator that has seen no others
    ganymede export runs/cgan-fashion --name few-fashion
    python scripts/augmentation.py measure data/few --model few-fashion

The classifier is that of training/evaluation/features/classifier.py; every line is the mean
and the spread of several of them, begun differently, on the 10,000 test pictures.
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
AMOUNTS = (0, 100, 1000)
STEPS, BATCH, WIDTH = 600, 64, 24


def subset(out: Path) -> None:
    """Write the first pictures of each class as a folder for each."""
    source = open_source(locate_dataset(NAME), "train")
    names = KNOWN_DATASETS[NAME].class_names
    taken = dict.fromkeys(range(len(names)), 0)
    for i, label in enumerate(source.labels):
        if taken[label] < PER_CLASS:
            folder = out / names[label]
            folder.mkdir(parents=True, exist_ok=True)
            source.read(i).save(folder / f"{taken[label]:03}.png")
            taken[label] += 1


def arrays(source) -> tuple[np.ndarray, np.ndarray]:
    pictures = [np.asarray(source.read(i).convert("L")) for i in range(len(source.names))]
    return np.stack(pictures)[:, None], np.array(source.labels)


def accuracy(pictures, labels, test, seed: int) -> float:
    """Train one classifier, and return the share of the test pictures that it gets right."""
    torch.manual_seed(seed)
    draw = torch.Generator().manual_seed(seed)
    images, classes = torch.from_numpy(pictures), torch.from_numpy(labels)
    network = ClassifierNetwork(1, images.shape[-1], 10, WIDTH)
    optimiser = torch.optim.AdamW(network.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    for _ in range(STEPS):
        rows = torch.randint(len(images), (BATCH,), generator=draw)
        loss = torch.nn.functional.cross_entropy(network(images[rows]), classes[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    network.eval()
    with torch.inference_mode():
        parts = [network(part).argmax(1) for part in torch.from_numpy(test[0]).split(1000)]
    return float((torch.cat(parts).numpy() == test[1]).mean())


def measure(real_folder: Path, model_name: str, models: Path, repeats: int) -> None:
    """Print the table."""
    model = find_model(models, model_name, Planner(pick_provider("auto")))
    source = open_source(real_folder, "train")
    order = [KNOWN_DATASETS[NAME].class_names.index(name) for name in source.class_names]
    pictures, labels = arrays(source)
    labels = np.array(order)[labels]
    test = arrays(open_source(locate_dataset(NAME), "test"))
    index = [model.manifest.classes.index(name) for name in KNOWN_DATASETS[NAME].class_names]
    most = max(AMOUNTS)
    made = [
        np.concatenate(
            [
                model.generate(range(start, start + 50), [index[label]] * 50)
                for start in range(label * most, (label + 1) * most, 50)
            ]
        ).transpose(0, 3, 1, 2)
        for label in range(10)
    ]
    print("| real a class | synthetic a class | right, % | spread |")
    print("|---|---|---|---|")
    for real in (PER_CLASS, 0):
        for amount in AMOUNTS:
            if not real and amount != most:
                continue
            parts = [pictures] * bool(real) + [each[:amount] for each in made]
            whole = np.concatenate(parts)
            said = np.concatenate(
                [labels] * bool(real) + [np.full(amount, label) for label in range(10)]
            )
            found = [100 * accuracy(whole, said, test, seed) for seed in range(repeats)]
            mean, spread = statistics.mean(found), statistics.stdev(found)
            print(f"| {real} | {amount} | {mean:.1f} | ± {spread:.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("subset").add_argument("out", type=Path)
    measuring = verbs.add_parser("measure")
    measuring.add_argument("real", type=Path)
    measuring.add_argument("--model", required=True)
    measuring.add_argument("--models", type=Path, default=Path("models"))
    measuring.add_argument("--repeats", type=int, default=5)
    said = parser.parse_args()
    if said.verb == "subset":
        subset(said.out)
    else:
        measure(said.real, said.model, said.models, said.repeats)


if __name__ == "__main__":
    sys.exit(main())
