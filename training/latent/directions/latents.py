"""Samples of the latent space in which a model has directions, and their images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.runtime.latent.seeds import MAX_SEED
from service.runtime.models.manifest import MANIFEST_FILE
from service.runtime.models.model import Model
from service.runtime.models.parts.graphs import GENERATOR
from service.runtime.onnx.machine import usable_cpus
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from training.evaluation.models import model_folder
from training.latent.directions.errors import DirectionsError

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]
# Called with the number of finished rows, and their total.
Progress = Callable[[int, int], None]

_ROWS = 16
_LATENT_ROWS = 64


@dataclass(frozen=True)
class Samples:
    """Latents of seeds: `values` are w ``[N, layers, w_dim]``, or z ``[N, z_dim]`` without styles.

    `conditions` are the other inputs of the generator by name: classes, and the truncation.
    """

    values: Floats
    conditions: Mapping[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(self.values)

    def flat(self, layers: Sequence[int]) -> Floats:
        """Return one vector per sample ``[N, dimension]``: z, or the mean of w over `layers`."""
        return self.values[:, list(layers)].mean(axis=1) if self.values.ndim == 3 else self.values


def find_folder(target: str, models: Path) -> Path:
    """Return the folder of a model, given by name, ``name@version`` or path.

    Raises DirectionsError if `target` is not a model, and QualityError if it does not exist.
    """
    folder = model_folder(target, models)
    if folder is None:
        raise DirectionsError(f"{target} is not a model folder: it has no {MANIFEST_FILE}")
    return folder


def open_model(folder: Path) -> Model:
    """Load a model that generates from a latent space. Raises DirectionsError for other models."""
    model = Model(
        folder, Provider.CPU, ExecutionPlan(workers=1, threads=usable_cpus(), max_rows=_ROWS)
    )
    if model.manifest.latent is None:
        raise DirectionsError(
            f"{model.manifest.name} is an image-to-image model: it has no latent space"
        )
    return model


def draw(
    model: Model,
    seeds: Sequence[int],
    classes: Sequence[int] | None = None,
    *,
    truncated: bool = True,
    progress: Progress = lambda _, __: None,
) -> Samples:
    """Return the latents of `seeds`.

    Seed s has ``classes[s modulo their number]``; the default is all classes of the model. Without
    `truncated`, styles are those of a truncation of 1, if the model allows it. Raises
    DirectionsError if a seed is out of range.
    """
    if seeds and seeds[-1] > MAX_SEED:
        raise DirectionsError(f"--seed: the seeds of the samples must not exceed {MAX_SEED}")
    truncation = model.manifest.latent.truncation if model.manifest.latent else None
    used = None
    if truncation is not None:
        full = min(max(1.0, truncation.minimum), truncation.maximum)
        used = truncation.default if truncated else full
    parts = []
    for start in range(0, len(seeds), _LATENT_ROWS):
        rows = seeds[start : start + _LATENT_ROWS]
        indices = [classes[seed % len(classes)] for seed in rows] if classes else None
        truncations = None if used is None else [used] * len(rows)
        if model.manifest.styles is not None:
            parts.append({"w": model.styles(rows, indices, truncations)})
        else:
            parts.append(model.feeds(rows, indices, truncations))
        progress(start + len(rows), len(seeds))
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    values = arrays.pop(model.manifest.latent_space_name)
    return Samples(values.astype(np.float32), arrays)


def moved(samples: Samples, vector: Floats, layers: Sequence[int], amount: float) -> Samples:
    """Return samples moved by `amount` units along a direction of w at `layers`, or of z."""
    values = samples.values.copy()
    if values.ndim == 3:
        values[:, list(layers)] += np.float32(amount) * vector
    else:
        values += np.float32(amount) * vector
    return Samples(values, samples.conditions)


def images(model: Model, samples: Samples) -> Pixels:
    """Return the images ``[N, H, W, C] uint8`` of samples."""
    return np.concatenate(list(_image_batches(model, samples)))


def _image_batches(model: Model, samples: Samples) -> Iterator[Pixels]:
    for start in range(0, len(samples), _ROWS):
        rows = slice(start, start + _ROWS)
        if model.manifest.styles is not None:
            yield model.synthesize(samples.values[rows])
        else:
            conditions = {name: array[rows] for name, array in samples.conditions.items()}
            yield model.run(GENERATOR, {"z": samples.values[rows], **conditions})["pixels"]


def unit_vector(vector: NDArray[np.float64], latents: Floats) -> Floats:
    """Return a direction whose length is one standard deviation of `latents` ``[N, dimension]``.

    That is the standard deviation of their projections on it. Raises DirectionsError if the latents
    do not vary along it.
    """
    length = float(np.linalg.norm(vector))
    direction = vector / max(length, 1e-300)
    deviation = float((latents.astype(np.float64) @ direction).std())
    if not np.isfinite(length) or length == 0 or deviation <= 1e-12:
        raise DirectionsError("the latents of the model do not vary along a direction")
    return (direction * deviation).astype(np.float32)
