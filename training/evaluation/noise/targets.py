"""Evaluation targets: exported models, runs, and folders of images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

from service.runtime.formatting import exact
from service.runtime.images.decoding import ImageDecodeError
from service.runtime.latent.seeds import MAX_SEED
from service.runtime.models.model import Model
from service.runtime.models.parts.outputs import ImageSpec
from service.runtime.models.parts.provenance import TrainingData, TrainingProvenance
from service.runtime.onnx.machine import usable_cpus
from service.runtime.onnx.sessions import ExecutionPlan, Provider, pick_provider, plan_for
from training.data.datasets import KNOWN_DATASETS
from training.data.images import DataOptions, load_images
from training.data.provenance import data_options
from training.data.sources import DataError, ImageSource, open_source
from training.evaluation.errors import QualityError
from training.evaluation.models import RECIPE_FILE, exported_run, model_folder, recorded_data

if TYPE_CHECKING:
    from training.evaluation.evaluation import EvaluationSettings, Progress
    from training.evaluation.noise.report import NoiseResult

_ROWS = 16
# Read as plain YAML: the recipe schema needs PyTorch.
_RECIPES = Path(__file__).parents[2] / "recipes"


@dataclass(frozen=True)
class NoiseTarget:
    """Images to evaluate: generated from noise by `model`, or `stored` in a folder."""

    unsupported_options: ClassVar[frozenset[str]] = frozenset()
    title: str
    image: ImageSpec
    classes: tuple[str, ...] = ()
    # The data that the model was trained on, if known, and the record of their images.
    data: DataOptions | None = None
    trained_on: TrainingData | None = None
    model: Model | None = None
    # ``[N, H, W, C]``
    stored: NDArray[np.uint8] | None = None
    truncation: float | None = None
    seed_start: int | None = None
    # The log of a run.
    log: Sequence[Mapping[str, Any]] = field(default=(), repr=False)

    @property
    def count(self) -> int | None:
        """The number of images in a folder; None for a model."""
        return None if self.stored is None else len(self.stored)

    @property
    def pretrained(self) -> tuple[str, ...]:
        """The pretrained networks that judged the images in training, if they are known."""
        provenance = None if self.model is None else self.model.manifest.provenance
        return provenance.pretrained if isinstance(provenance, TrainingProvenance) else ()

    def labels(self, samples: int) -> NDArray[np.int64] | None:
        """Return the class of each sample, ``[samples]``, or None without classes.

        The class is the service's default for the seed of the sample.
        """
        if self.model is None or not self.classes:
            return None
        return np.asarray(self.model.classes_of(self._seeds(0, samples)))

    def batches(self, samples: int) -> Iterator[NDArray[np.uint8]]:
        """Yield the images in batches ``[N, H, W, C] uint8``."""
        for start in range(0, samples, _ROWS):
            stop = min(start + _ROWS, samples)
            if self.model is None:
                assert self.stored is not None  # noqa: S101 - one of the two is set
                yield np.asarray(self.stored[start:stop])
                continue
            seeds = self._seeds(start, stop)
            truncations = None if self.truncation is None else [self.truncation] * len(seeds)
            yield self.model.generate(seeds, None, truncations)

    def _seeds(self, start: int, stop: int) -> list[int]:
        first = self.seed_start or 0
        return list(range(first + start, first + stop))

    @classmethod
    def evaluate_all(
        cls,
        targets: Sequence[NoiseTarget],
        settings: EvaluationSettings,
        progress: Progress | None,
    ) -> Sequence[NoiseResult]:
        """Evaluate targets on the same real images. Raises QualityError and DataError."""
        from training.evaluation.noise.evaluation import evaluate_targets  # noqa: PLC0415

        return evaluate_targets(targets, settings, progress)


def open_noise_target(
    target: str,
    models: Path,
    *,
    truncation: float | None = None,
    seed_start: int = 0,
    checkpoint: str = "last",
) -> NoiseTarget:
    """Open a model by ``name``, ``name@version`` or folder, the folder of a run, or images.

    `checkpoint` is the checkpoint of a run, ``last`` or ``best``. The generator of a run is
    exported first, so that the evaluated graph is the graph that would be served. Raises
    QualityError, and the errors of loading a model.
    """
    path = Path(target)
    if (path / RECIPE_FILE).is_file():
        return _open_run(path, truncation, seed_start, checkpoint)
    folder = model_folder(target, models)
    if folder is None:
        return _open_images(path)
    return _open_model(folder, truncation, seed_start)


def _open_model(
    folder: Path,
    truncation: float | None,
    seed_start: int,
    data: DataOptions | None = None,
    title: str = "",
    log: Sequence[Mapping[str, Any]] = (),
) -> NoiseTarget:
    provider = pick_provider("auto")
    plan = plan_for(provider)
    if provider is Provider.CPU:
        # Batches run one at a time, so each one may use all threads of the machine.
        plan = ExecutionPlan(workers=1, threads=usable_cpus(), max_rows=_ROWS)
    model = Model(folder, provider, plan)
    manifest = model.manifest
    if manifest.input is not None:
        raise QualityError(
            f"{manifest.name} is an image-to-image model, not one that generates from noise"
        )
    limits = manifest.latent.truncation if manifest.latent else None
    if truncation is not None and limits is None:
        raise QualityError(f"{manifest.name} does not support truncation")
    if truncation is not None and limits and not limits.minimum <= truncation <= limits.maximum:
        raise QualityError(
            f"{manifest.name}: truncation must be from {exact(limits.minimum)} to "
            f"{exact(limits.maximum)}, got {exact(truncation)}"
        )
    if manifest.image_spec.height != manifest.image_spec.width:
        raise QualityError(f"{manifest.name} generates images that are not square")
    if truncation is None and limits is not None:
        truncation = limits.default
    if not 0 <= seed_start <= MAX_SEED:
        raise QualityError(f"a seed must be from 0 to {MAX_SEED}, got {seed_start}")
    return NoiseTarget(
        title=title or f"{manifest.name}@{manifest.version}",
        image=manifest.image_spec,
        classes=manifest.classes,
        data=data or _training_options(model),
        trained_on=recorded_data(model.manifest),
        model=model,
        truncation=truncation,
        seed_start=seed_start,
        log=log,
    )


def _training_options(model: Model) -> DataOptions | None:
    """Return the options of the data that a model was trained on, or None if they are not known.

    Whether training flipped the images is read from the recipe, because it is not in the manifest.
    """
    provenance, image = model.manifest.provenance, model.manifest.image_spec
    if not isinstance(provenance, TrainingProvenance):
        return None
    recipe = _RECIPES / f"{provenance.recipe}.yaml"
    options = yaml.safe_load(recipe.read_text()).get("data", {}) if recipe.is_file() else {}
    flip = bool(options.get("flip")) if isinstance(options, dict) else False
    record = recorded_data(model.manifest)
    if record is not None:
        recorded = data_options(record, image.height, image.channels)
        return recorded and recorded.model_copy(update={"flip": flip})
    # Models that were exported before the record existed only have the title.
    for name, known in KNOWN_DATASETS.items():
        if known.title == provenance.dataset:
            return DataOptions(
                name=name, resolution=image.height, channels=image.channels, flip=flip
            )
    return None


def _open_run(
    folder: Path, truncation: float | None, seed_start: int, checkpoint: str
) -> NoiseTarget:
    from training.run import Run  # noqa: PLC0415 - needs PyTorch

    run = Run(folder)
    recipe = run.recipe()
    run = run.at(checkpoint)
    with exported_run(run) as exported:
        return _open_model(
            exported,
            truncation,
            seed_start,
            recipe.data,
            f"{run.name}, {checkpoint} checkpoint",
            run.read_log(),
        )


def _first_image(source: ImageSource, path: Path) -> Image.Image:
    """Return the first readable image. Raises DataError."""
    failure = ""
    for row, name in enumerate(source.names):
        try:
            return source.read(row)
        except (ImageDecodeError, OSError, ValueError) as error:
            failure = failure or f"{name} in {path} cannot be read: {error}"
    raise DataError(failure)


def _open_images(path: Path) -> NoiseTarget:
    source = open_source(path)
    first = _first_image(source, path)
    side = min(first.size)
    channels = 4 if first.has_transparency_data else 1 if first.mode in ("1", "L") else 3
    options = DataOptions(path=str(path), resolution=side, channels=channels)
    pixels = load_images(options).pixels
    image = ImageSpec(height=side, width=side, channels=channels)
    return NoiseTarget(title=path.name, image=image, stored=pixels)
