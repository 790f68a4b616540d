"""Data and a recipe for tests that train text-to-image models."""

import json
from pathlib import Path

from PIL import Image

TINY = [
    "data.resolution=16",
    "game.captions.style=false",
    "generator.width=2",
    "generator.most=8",
    "generator.w_dim=8",
    "generator.class_width=8",
    "generator.z_dim=8",
    "generator.mapping_layers=1",
    "discriminator.width=2",
    "discriminator.most=8",
    "train.batch=8",
    "train.images=48",
    "train.log_images=16",
    "train.sample_images=48",
    "train.loggers=[]",
    "device.precision=float32",
]
COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def write_drawings(folder: Path, words: str = "thing") -> Path:
    """Write 48 images of one color with captions such as ``red thing 0``, and return `folder`."""
    folder.mkdir()
    lines = []
    for number in range(48):
        name, color = list(COLORS.items())[number % 3]
        Image.new("RGB", (16, 16), color).save(folder / f"{number:02}.png")
        lines.append({"file_name": f"{number:02}.png", "text": f"{name} {words} {number // 6}"})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder
