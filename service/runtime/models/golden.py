"""Golden images: pictures that an exported model made, which it has to make again where it serves.

The manifest states the SHA-256 of their pixels, and ``golden.png`` beside it holds them, one below
the other. A digest says that the graph is the one that was exported; a golden image says that this
machine, with this ONNX Runtime, computes with it what was computed there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

import numpy as np
from PIL import Image

from service.runtime.images.encoding import Pixels
from service.runtime.models.manifest import GENERATOR, Golden, Manifest, ManifestError
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import GraphError, Provider

GOLDEN_FILE = "golden.png"
GOLDEN_SEEDS = range(4)

# How far pictures may be from the golden ones: this share of the values, by so many levels of 255.
# Another CPU adds in another order, which moves a value across a rounding here and there; a GPU
# multiplies with fewer bits on top.
_NEAR = {Provider.CPU: (0.999, 2), Provider.CUDA: (0.99, 8)}


class Match(StrEnum):
    """How a model's pictures compare with its golden ones."""

    EXACT = "exact"
    NEAR = "near"


class GoldenMismatch(GraphError):
    """The model makes other pictures than where it was exported."""


def write_golden(model: Model, folder: Path, seeds: Sequence[int] = GOLDEN_SEEDS) -> list[Golden]:
    """Make the golden images of `model`, write them into `folder`, and return what to state.

    They have the classes and truncations that a request has which asks for none.
    """
    classes, truncations = model.classes_of(seeds), model.truncations_of(seeds)
    directions = model.directions
    if directions:
        made = [model.run(each, model.feeds(seeds))["pixels"] for each in directions]
        pixels = np.concatenate(made)
    else:
        pixels = model.generate(seeds, classes, truncations)
    strip = pixels.reshape(-1, *pixels.shape[2:])
    image = Image.fromarray(strip.squeeze(-1) if strip.shape[-1] == 1 else strip)
    image.save(folder / GOLDEN_FILE, optimize=True)
    return [
        Golden(
            seed=seed,
            class_index=classes[i] if classes else None,
            truncation=truncations[i] if truncations else None,
            direction=direction,
            sha256=_sha256(pixels[j * len(seeds) + i]),
        )
        for j, direction in enumerate(directions or (None,))
        for i, seed in enumerate(seeds)
    ]


def check_golden(model: Model, folder: Path) -> Match | None:
    """Make the golden images again and compare; None when the manifest states none.

    Raises GoldenMismatch, or ManifestError when what is stated cannot be made or compared with.
    """
    manifest = model.manifest
    golden = manifest.golden
    if not golden:
        return None
    if model.directions:
        made = np.concatenate(
            [
                model.run(each.direction or GENERATOR, model.feeds([each.seed]))["pixels"]
                for each in golden
            ]
        )
    else:
        made = model.generate(
            [each.seed for each in golden],
            [each.class_index for each in golden if each.class_index is not None] or None,
            [each.truncation for each in golden if each.truncation is not None] or None,
        )
    if all(_sha256(picture) == each.sha256 for picture, each in zip(made, golden, strict=True)):
        return Match.EXACT
    expected = _read(folder / GOLDEN_FILE, manifest)
    share, levels = _NEAR[model.provider]
    for each, one, other in zip(golden, made, expected, strict=True):
        if _sha256(other) != each.sha256:
            raise ManifestError(f"{GOLDEN_FILE} does not hold the picture of seed {each.seed}")
        apart = np.abs(one.astype(np.int16) - other)
        if np.mean(apart <= levels) < share:
            raise GoldenMismatch(
                f"the picture of seed {each.seed} is not the one that was exported: "
                f"{np.mean(apart > levels):.1%} of its values differ by more than {levels}, "
                f"by up to {apart.max()}"
            )
    return Match.NEAR


def _read(path: Path, manifest: Manifest) -> Pixels:
    """Return the golden pictures ``[K, H, W, C]``. Raises ManifestError."""
    spec, count = manifest.image, len(manifest.golden)
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[spec.channels]
    try:
        with Image.open(path, formats=["PNG"]) as image:
            # Before anything is decoded: the file is input.
            if image.size != (spec.width, count * spec.height) or image.mode != mode:
                raise ManifestError(f"{path.name} is not {count} pictures of the manifest's size")
            pixels = np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise ManifestError(f"{path.name} cannot be read: {error}") from error
    return pixels.reshape(count, spec.height, spec.width, spec.channels)


def _sha256(pixels: Pixels) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()
