"""Writes a labeled sheet of images for each plausible network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from training.importers.errors import ModelImportError
from training.importers.preview.variants import Pixels, Variant, Variants
from training.preview.grids import grid, save_sheet, side_by_side

_SAMPLES = 16
_LABEL_HEIGHT, _TEXT_SIZE, _MIN_WIDTH = 40, 13, 560


def write_sheets(
    variants: Variants, folder: Path, inputs: Pixels | None, report: Callable[[str], object]
) -> list[Path]:
    """Write one sheet for the assumed values and one for each other value, and return the paths.

    All sheets show the same seeds or, for an image-to-image model, `inputs` ``[N, H, W, C]``;
    Raises ModelImportError if the folder contains other files.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ModelImportError(f"--preview {folder}: expected an empty or a new folder")
    base = variants.base()
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []

    def write(variant: Variant, label: str, name: str) -> None:
        paths.append(folder / f"{len(paths):02}-{_file_name(name)}.png")
        arguments = variant.arguments or "no options"
        sheet = _sheet(variant, inputs, label, arguments)
        save_sheet(sheet, paths[-1], shows_inputs=inputs is not None)
        report(f"{paths[-1]}: {label} ({arguments})")

    write(base, "as assumed", "as-assumed")
    for prop in variants.properties(base):
        for other in variants.others(base, prop):
            value = other.settings[prop.name]
            write(other, f"{prop.subject}: {value}", f"{prop.name}-{value}")
    return paths


def _sheet(variant: Variant, inputs: Pixels | None, label: str, arguments: str) -> Image.Image:
    outputs = variant.images(_SAMPLES, inputs)
    images = grid(outputs) if inputs is None else side_by_side([inputs, outputs], groups=1)
    images = images.convert("RGB")
    sheet = Image.new(
        "RGB", (max(images.width, _MIN_WIDTH), images.height + _LABEL_HEIGHT), "white"
    )
    sheet.paste(images, (0, _LABEL_HEIGHT))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_TEXT_SIZE)
    draw.text((4, 3), label, "black", font)
    draw.text((4, 3 + _LABEL_HEIGHT // 2), arguments, "dimgray", font)
    return sheet


def _file_name(text: str) -> str:
    allowed = np.array([char if char.isalnum() or char in "-._" else "-" for char in text.lower()])
    return "".join(allowed)[:80]
