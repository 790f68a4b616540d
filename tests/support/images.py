"""Generated images: digits in MNIST's format and colored PNG files."""

import gzip
import os
import struct
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont


def drawn_digits(count: int, size: int = 28) -> tuple[np.ndarray, np.ndarray]:
    """Return digits in Pillow's default font at random offsets, ``[N, H, W] uint8``, and labels."""
    rng = np.random.default_rng(0)
    font = ImageFont.load_default(size * 0.8)
    labels = np.arange(count) % 10
    images = np.zeros((count, size, size), np.uint8)
    for i, label in enumerate(labels):
        image = Image.new("L", (size, size))
        x, y = rng.integers(-2, 3, 2)
        ImageDraw.Draw(image).text(
            (size / 2 + x, size / 2 + y), str(label), 255, font=font, anchor="mm"
        )
        images[i] = np.asarray(image)
    return images, labels.astype(np.uint8)


def write_idx(folder: Path, count: int) -> None:
    """Write drawn digits in MNIST's format: images compressed with gzip, labels uncompressed."""
    images, labels = drawn_digits(count)
    header = struct.pack(">4I", 0x0803, *images.shape)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + images.tobytes()))
    (folder / "train-labels-idx1-ubyte").write_bytes(
        struct.pack(">2I", 0x0801, count) + labels.tobytes()
    )


def real_mnist() -> Path | None:
    """Return MNIST's folder in $GANYMEDE_DATA; without it, warn and return None."""
    folder = Path(os.environ.get("GANYMEDE_DATA", "")) / "mnist"
    if os.environ.get("GANYMEDE_DATA") and folder.is_dir():
        return folder
    warnings.warn("no mnist in $GANYMEDE_DATA; using drawn digits instead", stacklevel=2)
    return None


def write_colored(folder: Path, classes: int, count: int = 100) -> Path:
    """Write colored digits as PNG files of 32×32 pixels, with one folder per class."""
    images, labels = drawn_digits(count, size=32)
    rng = np.random.default_rng(0)
    for i, (image, digit) in enumerate(zip(images, labels, strict=True)):
        label = digit % classes
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        color = rng.uniform(0.3, 1, 3)
        pixels = (image[..., None] * color).astype(np.uint8)
        Image.fromarray(pixels).save(folder / str(label) / f"{i}.png")
    return folder
