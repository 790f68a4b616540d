"""Data and networks for tests of evaluations."""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.support.images import drawn_digits

# Height and width of the digits.
SIDE = 28


def noisy_digits(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return different digits with a little noise ``[count, 28, 28] uint8``, and their labels."""
    rng = np.random.default_rng(seed)
    pixels, labels = drawn_digits(2 * count)
    rows = np.sort(rng.permutation(2 * count)[:count])
    varied = pixels[rows] * rng.uniform(0.6, 1, (count, 1, 1))
    varied = varied + rng.uniform(0, 60, varied.shape)
    return varied.clip(0, 255).astype(np.uint8), labels[rows]


def write_images(folder: Path, pixels: np.ndarray, labels: np.ndarray | None = None) -> Path:
    """Write PNG files and return `folder`; with labels, in a subfolder for each class."""
    for i, image in enumerate(pixels):
        class_folder = folder if labels is None else folder / str(labels[i])
        class_folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(class_folder / f"{i:05}.png")
    return folder
