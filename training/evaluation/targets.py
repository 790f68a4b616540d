"""What is measured: an exported model, a run in training, or a folder of pictures."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from service.runtime.latent.seeds import MAX_SEED
from service.runtime.models.catalog import (
    Catalog,
    Entry,
    ModelNotFound,
    State,
    model_folders,
    version_key,
)
from service.runtime.models.manifest import MANIFEST_FILE, ImageSpec, TrainingProvenance
from service.runtime.models.model import Model
from service.runtime.onnx.machine import usable_cpus
from service.runtime.onnx.sessions import ExecutionPlan, Provider, pick_provider, plan_for
from training.data.datasets import KNOWN_DATASETS
from training.data.images import DataOptions, load_images
from training.data.sources import DataError, open_source
from training.evaluation.errors import QualityError

_ROWS = 16
# What a run's folder is known by.
RECIPE_FILE = "recipe.yaml"
# Read as data: the recipe's own schema needs PyTorch.
_RECIPES = Path(__file__).parents[1] / "recipes"


@dataclass(frozen=True)
class EvaluationTarget:
    """Pictures to measure, a batch at a time.

    `count` is how many there are, or None where there is no end. `model` is there for generators,
    and `stored` where they are pictures of a folder. `log` is that of a run.
    """

    title: str
    image: ImageSpec
    classes: tuple[str, ...] = ()
    # What it was trained on, as far as it says so.
    data: DataOptions | None = None
    model: Model | None = None
    stored: NDArray[np.uint8] | None = None
    truncation: float | None = None
    seed_start: int | None = None
    log: Sequence[Mapping[str, Any]] = field(default=(), repr=False)

    @property
    def count(self) -> int | None:
        """How many pictures there are, or None where there is no end."""
        return None if self.stored is None else len(self.stored)

    def labels(self, samples: int) -> NDArray[np.int64] | None:
        """Return the class of each sample: all in turn, as the service gives them by default."""
        if self.model is None or not self.classes:
            return None
        return np.asarray(self.model.classes_of(self._seeds(0, samples)))

    def pictures(self, samples: int) -> Iterator[NDArray[np.uint8]]:
        """Make the pictures ``[N, H, W, C] uint8``, in batches."""
        for start in range(0, samples, _ROWS):
            stop = min(start + _ROWS, samples)
            if self.model is None:
                assert self.stored is not None  # noqa: S101 - one of the two is there
                yield np.asarray(self.stored[start:stop])
                continue
            seeds = self._seeds(start, stop)
            truncations = None if self.truncation is None else [self.truncation] * len(seeds)
            yield self.model.generate(seeds, None, truncations)

    def _seeds(self, start: int, stop: int) -> list[int]:
        first = self.seed_start or 0
        return list(range(first + start, first + stop))


def open_target(
    wanted: str,
    models: Path,
    *,
    truncation: float | None = None,
    seed_start: int = 0,
    checkpoint: str = "last",
) -> EvaluationTarget:
    """Open a model by ``name`` or ``name@version`` or its folder, a run's folder, or pictures.

    Of a run, `checkpoint` is the ``last`` or the ``best``; its generator is exported first, so that
    what is measured is what would be served. Raises QualityError, and what loading raises.
    """
    path = Path(wanted)
    if (path / RECIPE_FILE).is_file():
        return _run(path, truncation, seed_start, checkpoint)
    folder = model_folder(wanted, models)
    return _pictures(path) if folder is None else _model(folder, truncation, seed_start)


def model_folder(wanted: str, models: Path) -> Path | None:
    """Return the folder of a model that is given by ``name``, ``name@version`` or a folder.

    Of a name, and of the folder of a name, the newest version. None where `wanted` is a path of
    something else. Raises QualityError where it is neither, or a whole repository.
    """
    path = Path(wanted)
    if (path / MANIFEST_FILE).is_file():
        return path
    if versions := [manifest.parent for manifest in path.glob(f"*/{MANIFEST_FILE}")]:
        return max(versions, key=lambda folder: version_key(folder.name))
    if any(path.glob(f"*/*/{MANIFEST_FILE}")):
        raise QualityError(f"{wanted} is a model repository: name one of its models")
    if path.exists():
        return None
    # Listed without being loaded: one of them is wanted.
    entries = tuple(
        Entry(folder.parent.name, folder.name, State.READY) for folder in model_folders(models)
    )
    try:
        entry = Catalog(models, Provider.CPU, plan_for(Provider.CPU), entries).entry(wanted)
    except ModelNotFound as error:
        raise QualityError(f"{wanted} is no model, run or folder of pictures: {error}") from error
    return models / entry.name / entry.version


def _model(
    folder: Path,
    truncation: float | None,
    seed_start: int,
    data: DataOptions | None = None,
    title: str = "",
    log: Sequence[Mapping[str, Any]] = (),
) -> EvaluationTarget:
    provider = pick_provider("auto")
    plan = plan_for(provider)
    if provider is Provider.CPU:
        # One batch at a time, so all of the machine's threads are its own.
        plan = ExecutionPlan(workers=1, threads=usable_cpus(), max_rows=_ROWS)
    model = Model(folder, provider, plan)
    manifest = model.manifest
    if manifest.input is not None:
        raise QualityError(
            f"{manifest.name} makes its pictures of others: it does not compare with pictures that "
            "were made of noise"
        )
    space = manifest.latent.truncation if manifest.latent else None
    if truncation is not None and space is None:
        raise QualityError(f"{manifest.name} knows no truncation")
    if truncation is not None and space and not space.minimum <= truncation <= space.maximum:
        raise QualityError(
            f"{manifest.name} truncates from {space.minimum:g} to {space.maximum:g}, "
            f"not by {truncation:g}"
        )
    if manifest.image.height != manifest.image.width:
        raise QualityError(f"{manifest.name} makes pictures that are not square")
    if truncation is None and space is not None:
        truncation = space.default
    if not 0 <= seed_start <= MAX_SEED:
        raise QualityError(f"a seed is from 0 to {MAX_SEED}, got {seed_start}")
    return EvaluationTarget(
        title=title or f"{manifest.name}@{manifest.version}",
        image=manifest.image,
        classes=manifest.classes,
        data=data or _trained_on(model),
        model=model,
        truncation=truncation,
        seed_start=seed_start,
        log=log,
    )


def _trained_on(model: Model) -> DataOptions | None:
    """Return the data that a manifest names, where they are known by that name.

    Whether training flipped them stands in the recipe alone.
    """
    made, image = model.manifest.provenance, model.manifest.image
    if not isinstance(made, TrainingProvenance):
        return None
    recipe = _RECIPES / f"{made.recipe}.yaml"
    given = yaml.safe_load(recipe.read_text()).get("data", {}) if recipe.is_file() else {}
    flip = bool(given.get("flip")) if isinstance(given, dict) else False
    for name, known in KNOWN_DATASETS.items():
        if known.title == made.dataset:
            return DataOptions(
                name=name, resolution=image.height, channels=image.channels, flip=flip
            )
    return None


def _run(
    folder: Path, truncation: float | None, seed_start: int, checkpoint: str
) -> EvaluationTarget:
    from training.export.exporter import export_run  # noqa: PLC0415 - needs PyTorch
    from training.run import Run  # noqa: PLC0415

    run = Run(folder)
    recipe = run.recipe()
    run = run.at(checkpoint)
    with tempfile.TemporaryDirectory() as temporary:
        exported = export_run(run, "run", Path(temporary))
        return _model(
            exported,
            truncation,
            seed_start,
            recipe.data,
            f"{run.name}, {checkpoint} checkpoint",
            run.read_log(),
        )


def _pictures(path: Path) -> EvaluationTarget:
    source = open_source(path, "train")
    try:
        first = source.read(0)
    except (OSError, ValueError) as error:
        raise DataError(f"{source.names[0]} in {path} cannot be read: {error}") from error
    side = min(first.size)
    channels = 4 if first.has_transparency_data else 1 if first.mode in ("1", "L") else 3
    options = DataOptions(path=str(path), resolution=side, channels=channels)
    pixels = load_images(options).pixels
    image = ImageSpec(height=side, width=side, channels=channels)
    return EvaluationTarget(title=path.name, image=image, stored=pixels)
