#!/usr/bin/env python3
"""Do synthetic images help a classifier? Measure it before you use them.

    python examples/augmentation_study.py data/few data/test --model cgan-fashion

`data/few` and `data/test` have one folder per class, with the classes of the model. A classifier is
trained on the real images alone, and on data sets of `ganymede augment` with more and more
synthetic images; each several times with other seeds. The test images are never trained on. Needs
the extra `train`. docs/augmentation.md explains when to expect an effect.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from training.data.images import DataOptions, load_images
from training.evaluation.features.classifier import ClassifierSettings, trained_classifier


def accuracy(train: Path, test: Path, side: int, channels: int, images: int, seed: int) -> float:
    """Train a classifier on a data set, and return its accuracy on the test images in percent."""
    real = load_images(DataOptions(path=str(test), resolution=side, channels=channels))
    data = load_images(DataOptions(path=str(train), resolution=side, channels=channels))
    if data.class_names != real.class_names:
        sys.exit(f"the classes differ: {data.class_names} and {real.class_names}")
    classifier = trained_classifier(data, side, ClassifierSettings(images=images, seed=seed))
    return 100 * float((classifier.classes_of(real.pixels) == real.labels).mean())


def augmented(data: Path, out: Path, model: str, per_class: int, side: int) -> Path:
    """Write the real images and `per_class` synthetic images of each class into one data set."""
    command = ["ganymede", "augment", str(data), "--model", model, "--out", str(out)]
    subprocess.run([*command, "--per-class", str(per_class), "--resize", str(side)], check=True)
    return out


def main() -> None:
    """Print a table: the accuracy by number of synthetic images."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, help="the real images to train on")
    parser.add_argument("test", type=Path, help="the images to measure on")
    parser.add_argument("--model", required=True, help="a model with the same classes")
    parser.add_argument("--per-class", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--side", type=int, default=28, help="pixels of an image's side")
    parser.add_argument("--channels", type=int, choices=(1, 3), default=1)
    parser.add_argument(
        "--repeats", type=int, default=5, help="classifiers for each row, 2 or more"
    )
    parser.add_argument("--images", type=int, default=60_000, help="training images of each")
    options = parser.parse_args()

    print("| synthetic images per class | accuracy, % | standard deviation |")
    print("|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for count in (0, *options.per_class):
            data = options.data
            if count:
                out = Path(folder) / str(count)
                data = augmented(data, out, options.model, count, options.side)
            measured = [
                accuracy(data, options.test, options.side, options.channels, options.images, seed)
                for seed in range(options.repeats)
            ]
            mean, deviation = statistics.mean(measured), statistics.stdev(measured)
            print(f"| {count:,} | {mean:.1f} | {deviation:.1f} |", flush=True)


if __name__ == "__main__":
    main()
