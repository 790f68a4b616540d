"""Golden outputs: outputs of the exported model that every serving machine must reproduce.

The manifest states the SHA-256 of the pixels, samples or texts. ``golden.png`` holds the images,
stacked vertically, ``golden.npy`` the samples of audio. The digest proves that the graph is the
exported one; the golden outputs prove that this machine, with this version of ONNX Runtime,
computes the same result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from service.runtime.files import open_regular
from service.runtime.generation import execute, text_plan
from service.runtime.images.encoding import Pixels
from service.runtime.models.manifest import Manifest, ManifestError, read_manifest
from service.runtime.models.model import GoldenMatch, Model
from service.runtime.models.parts.graphs import GENERATOR
from service.runtime.models.parts.measurements import Golden
from service.runtime.onnx.sessions import Array, GraphError, Provider
from service.runtime.text.sampling import TextSource
from service.runtime.text.vocabulary import read_vocabulary

GOLDEN_FILE = "golden.png"
GOLDEN_SAMPLES_FILE = "golden.npy"
GOLDEN_SEEDS = range(4)

# By provider: the minimum share of equal values, and the difference up to which values count as
# equal, in levels of pixels and of int16 samples. CPUs differ in the order of additions, which
# changes the rounding of some values; a GPU also multiplies with fewer bits.
_TOLERANCES = {Provider.CPU: (0.999, 2), Provider.CUDA: (0.99, 8)}
_SAMPLE_LEVELS = {Provider.CPU: 16, Provider.CUDA: 256}
# The minimum share of equal texts: a probability that rounds differently changes all later tokens.
_EQUAL_TEXTS = 0.5


class GoldenMismatch(GraphError):
    """The outputs of the model differ from those at export."""


def write_golden(model: Model, folder: Path, seeds: Sequence[int] = GOLDEN_SEEDS) -> list[Golden]:
    """Generate the golden outputs of `model`, write them into `folder`, and return their records.

    Classes and truncations are the defaults of a request. A text encoder has none.
    """
    if model.manifest.text_encoder is not None:
        return []
    if model.manifest.text is not None:
        texts = _texts(model, folder, seeds)
        return [Golden(seed=s, sha256=_text_sha256(t)) for s, t in zip(seeds, texts, strict=True)]
    classes, truncations = model.classes_of(seeds), model.truncations_of(seeds)
    directions = model.directions
    if directions:
        outputs = [model.run(each, model.feeds(seeds))["pixels"] for each in directions]
        pixels = np.concatenate(outputs)
    else:
        pixels = model.generate(seeds, classes, truncations)
    if model.manifest.image is None:
        np.save(folder / GOLDEN_SAMPLES_FILE, pixels, allow_pickle=False)
    else:
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
    """Generate the golden outputs again and compare them; return None if the manifest has none.

    Raises GoldenMismatch, or ManifestError if the golden outputs cannot be read or generated.
    """
    manifest = model.manifest
    golden = manifest.golden
    if not golden:
        return None
    if manifest.text is not None:
        return _check_texts(model, folder, golden)
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
    is_image = manifest.image is not None
    noun = "image" if is_image else "output"
    file = GOLDEN_FILE if is_image else GOLDEN_SAMPLES_FILE
    expected = (_read if is_image else _read_samples)(folder / file, manifest)
    min_share, levels = _TOLERANCES[model.provider]
    if not is_image:
        levels = _SAMPLE_LEVELS[model.provider]
    for each, image, reference in zip(golden, images, expected, strict=True):
        if _sha256(reference) != each.sha256:
            raise ManifestError(f"{file} does not contain the {noun} of seed {each.seed}")
        difference = np.abs(image.astype(np.int32) - reference)
        if np.mean(difference <= levels) < min_share:
            raise GoldenMismatch(
                f"the {noun} of seed {each.seed} differs from the exported one: "
                f"{np.mean(difference > levels):.1%} of the values differ by more than {levels} "
                f"levels; the largest difference is {difference.max()}"
            )
    return GoldenMatch.NEAR


def golden_images(folder: Path) -> Pixels:
    """Return the golden images ``[K, H, W, C] uint8`` of a model folder. Raises ManifestError."""
    return _read(folder / GOLDEN_FILE, read_manifest(folder))


def _read(path: Path, manifest: Manifest) -> Pixels:
    """Return the golden images ``[K, H, W, C] uint8``. Raises ManifestError."""
    spec, count = manifest.image_spec, len(manifest.golden)
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


def _read_samples(path: Path, manifest: Manifest) -> Array:
    """Return the golden samples ``[K, T] int16``. Raises ManifestError."""
    spec = manifest.output
    shape = (len(manifest.golden), *spec.row)
    try:
        with open_regular(path) as file:
            # Read by its header before the data, because the file is untrusted input.
            version = np.lib.format.read_magic(file)
            if version != (1, 0):
                raise ManifestError(f"{path.name} is not an NPY file of version 1.0")
            found, by_column, dtype = np.lib.format.read_array_header_1_0(file)
            if (found, dtype, by_column) != (shape, spec.dtype, False):
                raise ManifestError(f"{path.name} does not have the shape in the manifest")
            size = int(np.prod(shape)) * spec.dtype.itemsize
            data = file.read(size)
    except (OSError, ValueError) as error:
        raise ManifestError(f"{path.name} cannot be read: {error}") from error
    if len(data) != size:
        raise ManifestError(f"{path.name} is truncated")
    return np.frombuffer(data, spec.dtype).reshape(shape)


def _texts(model: Model, folder: Path, seeds: Sequence[int]) -> list[str]:
    """Return the texts of `seeds` at temperature 1."""
    spec = model.manifest.text
    assert spec is not None  # noqa: S101 - called for text models
    vocabulary = read_vocabulary(folder, spec)
    sources = [TextSource(seed, spec.max_length) for seed in seeds]
    return [
        vocabulary.text(each) for each in execute(text_plan(model.manifest, sources), model.run)
    ]


def _check_texts(model: Model, folder: Path, golden: Sequence[Golden]) -> GoldenMatch:
    """Compare the texts of `golden`. Raises GoldenMismatch, and ManifestError."""
    texts = _texts(model, folder, [each.seed for each in golden])
    equal = [_text_sha256(t) == each.sha256 for t, each in zip(texts, golden, strict=True)]
    if all(equal):
        return GoldenMatch.EXACT
    if sum(equal) < _EQUAL_TEXTS * len(equal):
        raise GoldenMismatch(
            f"{len(equal) - sum(equal)} of {len(equal)} texts differ from the exported ones; "
            f"the first is that of seed {golden[equal.index(False)].seed}"
        )
    return GoldenMatch.NEAR


def _text_sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _sha256(output: Array) -> str:
    return hashlib.sha256(output.tobytes()).hexdigest()
