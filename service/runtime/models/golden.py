"""Golden images: images of the exported model that every serving machine must reproduce.

The manifest states the SHA-256 of their pixels, and ``golden.png`` holds them, stacked vertically.
The digest proves that the graph is the exported one; the golden images prove that this machine,
with this version of ONNX Runtime, computes the same result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from service.runtime.files import open_regular
from service.runtime.images.encoding import Pixels
from service.runtime.models.manifest import (
    GENERATOR,
    Golden,
    Manifest,
    ManifestError,
    read_manifest,
)
from service.runtime.models.model import GoldenMatch, Model
from service.runtime.onnx.sessions import GraphError, Provider

GOLDEN_FILE = "golden.png"
GOLDEN_SEEDS = range(4)

# By provider: the minimum share of equal values, and the difference in levels (of 255) up to which
# values count as equal. CPUs differ in the order of additions, which changes the rounding of some
# values; a GPU also multiplies with fewer bits.
_TOLERANCES = {Provider.CPU: (0.999, 2), Provider.CUDA: (0.99, 8)}


class GoldenMismatch(GraphError):
    """The images of the model differ from those at export."""


def write_golden(model: Model, folder: Path, seeds: Sequence[int] = GOLDEN_SEEDS) -> list[Golden]:
    """Generate the golden images of `model`, write them into `folder`, and return their records.

    Classes and truncations are the defaults of a request.
    """
    classes, truncations = model.classes_of(seeds), model.truncations_of(seeds)
    directions = model.directions
    if directions:
        outputs = [model.run(each, model.feeds(seeds))["pixels"] for each in directions]
        pixels = np.concatenate(outputs)
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


def check_golden(model: Model, folder: Path) -> GoldenMatch | None:
    """Generate the golden images again and compare them; return None if the manifest has none.

    Raises GoldenMismatch, or ManifestError if the golden images cannot be read or generated.
    """
    manifest = model.manifest
    golden = manifest.golden
    if not golden:
        return None
    if model.directions:
        images = np.concatenate(
            [
                model.run(each.direction or GENERATOR, model.feeds([each.seed]))["pixels"]
                for each in golden
            ]
        )
    else:
        images = model.generate(
            [each.seed for each in golden],
            [each.class_index for each in golden if each.class_index is not None] or None,
            [each.truncation for each in golden if each.truncation is not None] or None,
        )
    if all(_sha256(image) == each.sha256 for image, each in zip(images, golden, strict=True)):
        return GoldenMatch.EXACT
    expected = _read(folder / GOLDEN_FILE, manifest)
    min_share, levels = _TOLERANCES[model.provider]
    for each, image, reference in zip(golden, images, expected, strict=True):
        if _sha256(reference) != each.sha256:
            raise ManifestError(f"{GOLDEN_FILE} does not contain the image of seed {each.seed}")
        difference = np.abs(image.astype(np.int16) - reference)
        if np.mean(difference <= levels) < min_share:
            raise GoldenMismatch(
                f"the image of seed {each.seed} differs from the exported one: "
                f"{np.mean(difference > levels):.1%} of the values differ by more than {levels} "
                f"levels; the largest difference is {difference.max()}"
            )
    return GoldenMatch.NEAR


def golden_images(folder: Path) -> Pixels:
    """Return the golden images ``[K, H, W, C] uint8`` of a model folder. Raises ManifestError."""
    return _read(folder / GOLDEN_FILE, read_manifest(folder))


def _read(path: Path, manifest: Manifest) -> Pixels:
    """Return the golden images ``[K, H, W, C] uint8``. Raises ManifestError."""
    spec, count = manifest.image, len(manifest.golden)
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[spec.channels]
    try:
        with open_regular(path) as file, Image.open(file, formats=["PNG"]) as image:
            # Checked before decoding, because the file is untrusted input.
            if image.size != (spec.width, count * spec.height) or image.mode != mode:
                raise ManifestError(
                    f"{path.name} does not contain {count} images of the size in the manifest"
                )
            pixels = np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise ManifestError(f"{path.name} cannot be read: {error}") from error
    return pixels.reshape(count, spec.height, spec.width, spec.channels)


def _sha256(pixels: Pixels) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()
