"""Inverts images: by the model's encoder or the nearest sample, then by optimization."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.runtime.generation import execute, inversion_plan
from service.runtime.images.encoding import ImageFormat, encode, image_grid
from service.runtime.latent.sources import LatentSource
from training.evaluation.features.networks import FeatureNetwork
from training.latent.generator import LatentGenerator
from training.latent.inversion.encoder import start_latent
from training.latent.inversion.model import InversionError
from training.latent.inversion.optimization import (
    OptimizationSettings,
    best_of_samples,
    optimize,
)
from training.latent.inversion.passes import (
    Inversion,
    Pixels,
    has_class_choice,
    psnr,
    squared_errors,
)

# Called with what is done, the number of done items, and their total.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Distances:
    """How far a reconstruction is from its image: PSNR in dB, and the feature distance."""

    psnr: float
    features: float

    def as_json(self) -> dict[str, float]:
        """Return the distances as a JSON object."""
        return {"psnr": round(self.psnr, 3), "feature_distance": round(self.features, 4)}


@dataclass(frozen=True)
class InvertedImage:
    """One inverted image: its latent, and reconstructions before and after the optimization."""

    target: Pixels
    first: Pixels
    pixels: Pixels
    source: LatentSource
    before: Distances
    after: Distances

    def compared(self) -> Pixels:
        """Return one image: the target, the first reconstruction, and the last one."""
        return image_grid(np.stack([self.target, self.first, self.pixels]), 1, 3)


def invert_images(
    generator: LatentGenerator,
    targets: Pixels,
    settings: OptimizationSettings,
    features: FeatureNetwork,
    progress: Progress,
    *,
    samples: int,
    class_name: str | None = None,
) -> list[InvertedImage]:
    """Invert images ``[N, H, W, C] uint8``.

    A model without encoder starts from the nearest of `samples` samples. Without a class name, all
    classes of a model are tried, if its latent does not contain the class. Raises InversionError.
    """
    class_index = _class_index(generator, class_name)
    mean, deviation = generator.statistics()
    first = _first_inversion(generator, mean, targets, samples, class_index, progress)
    last = first
    if settings.steps:
        last = optimize(
            generator,
            mean,
            deviation,
            targets,
            first,
            settings,
            lambda done, total: progress("optimizing", done, total),
        )
    vectors = features.features(targets).vectors
    before = _distances(first, targets, vectors, features)
    after = _distances(last, targets, vectors, features)
    return [
        InvertedImage(
            targets[i], first.pixels[i], last.pixels[i], _source(generator, last, i), *distances
        )
        for i, distances in enumerate(zip(before, after, strict=True))
    ]


def first_inversion_name(generator: LatentGenerator, samples: int) -> str:
    """Return what the optimization starts from, for users."""
    if generator.manifest.encoder is not None:
        return f"encoder, {generator.manifest.encoder.passes} passes"
    return f"nearest of {samples:,} samples"


def reconstruction_file(generator: LatentGenerator, image: InvertedImage) -> bytes:
    """Return the reconstruction as PNG, with metadata that reproduce it."""
    manifest = generator.manifest
    identity = {
        "model": manifest.name,
        "version": manifest.version,
        "digest": generator.model.digest,
    }
    return encode(image.pixels, ImageFormat.PNG, identity | image.source.parameters(manifest))


def latent_arrays(image: InvertedImage) -> dict[str, Any]:
    """Return the arrays of a latent file: ``w [layers, w_dim]`` or ``z [z_dim]``, and the class."""
    arrays: dict[str, Any] = {}
    if image.source.w is not None:
        arrays["w"] = image.source.w
    if image.source.z is not None:
        arrays["z"] = image.source.z
    if image.source.classes is not None:
        arrays["class_index"] = np.asarray(next(iter(image.source.classes)), np.int64)
    return arrays


def _class_index(generator: LatentGenerator, name: str | None) -> int | None:
    if name is None:
        return None
    manifest = generator.manifest
    if not has_class_choice(manifest):
        reason = "its w contains the class" if manifest.classes else "it has no classes"
        raise InversionError(f"--class does not apply to {manifest.name}: {reason}")
    if name not in manifest.classes:
        raise InversionError(
            f"--class: no class {name!r}; available: {', '.join(manifest.classes[:20])}"
        )
    return manifest.classes.index(name)


def _first_inversion(
    generator: LatentGenerator,
    mean: NDArray[np.float32],
    targets: Pixels,
    samples: int,
    class_index: int | None,
    progress: Progress,
) -> Inversion:
    manifest = generator.manifest
    if manifest.encoder is None:
        return best_of_samples(
            generator,
            start_latent(manifest, mean),
            targets,
            samples,
            class_index,
            lambda done, total: progress("searching samples", done, total),
        )
    progress("encoding", 0, 1)
    choices: list[int] = []
    if has_class_choice(manifest):
        choices = list(range(len(manifest.classes))) if class_index is None else [class_index]
    found = execute(
        inversion_plan(manifest, targets, choices),
        generator.model.run,
        generator.model.plan.max_rows,
    )
    classes = [next(iter(each.source.classes)) for each in found if each.source.classes]
    return Inversion(
        np.stack([each.latent for each in found]),
        np.stack([each.reconstruction for each in found]),
        np.asarray(classes, np.int64) if classes else None,
    )


def _distances(
    inversion: Inversion, targets: Pixels, vectors: NDArray[np.float32], features: FeatureNetwork
) -> list[Distances]:
    ratios = psnr(squared_errors(inversion.pixels, targets))
    rebuilt = features.features(inversion.pixels).vectors
    distances = np.linalg.norm(vectors - rebuilt, axis=1)
    return [Distances(float(a), float(b)) for a, b in zip(ratios, distances, strict=True)]


def _source(generator: LatentGenerator, inversion: Inversion, row: int) -> LatentSource:
    """Return the source of an image, as requests name it."""
    latent = inversion.latents[row]
    if generator.space == "w":
        return LatentSource(w=latent)
    classes = inversion.classes
    space = generator.manifest.latent
    truncation = space.truncation.default if space and space.truncation else None
    return LatentSource(
        z=latent,
        classes=None if classes is None else {int(classes[row]): 1.0},
        truncation=truncation,
    )
