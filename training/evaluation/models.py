"""The models that evaluation targets name: exported ones, and those of runs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.runtime.models.catalog import (
    Catalog,
    Entry,
    ModelNotFound,
    State,
    model_folders,
    version_key,
)
from service.runtime.models.manifest import MANIFEST_FILE, Manifest
from service.runtime.models.model import Model
from service.runtime.models.parts.provenance import TrainingData, TrainingProvenance
from service.runtime.onnx.sessions import ExecutionPlan, Provider, plan_for
from training.data.images import DataOptions, data_location
from training.data.provenance import selected_data
from training.evaluation.errors import QualityError

if TYPE_CHECKING:
    from training.recipe.schema import Recipe
    from training.run import Run

# A folder with this file is a run.
RECIPE_FILE = "recipe.yaml"


def model_folder(target: str, models: Path) -> Path | None:
    """Return the folder of a model, given by ``name``, ``name@version`` or a path.

    Without a version, returns the newest version. Returns None if `target` is a path but not a
    model. Raises QualityError if there is no such model or path, or if it is a model repository.
    """
    path = Path(target)
    if (path / MANIFEST_FILE).is_file():
        return path
    if versions := [manifest.parent for manifest in path.glob(f"*/{MANIFEST_FILE}")]:
        return max(versions, key=lambda folder: version_key(folder.name))
    if any(path.glob(f"*/*/{MANIFEST_FILE}")):
        raise QualityError(f"{target} is a model repository: select one of its models")
    if path.exists():
        return None
    # Listing the models by name does not load any of them.
    entries = tuple(
        Entry(folder.parent.name, folder.name, State.READY) for folder in model_folders(models)
    )
    try:
        entry = Catalog(models, Provider.CPU, plan_for(Provider.CPU), entries).entry(target)
    except ModelNotFound as error:
        raise QualityError(f"{target} is not a model, run or folder of images: {error}") from error
    return models / entry.name / entry.version


@contextmanager
def exported_run(run: Run) -> Iterator[Path]:
    """Export the generator of a run, so that the graph that would be served is evaluated.

    Yields the model folder, which is deleted afterwards. Raises the errors of `export_run`.
    """
    from training.export.exporter import export_run  # noqa: PLC0415 - needs PyTorch

    with tempfile.TemporaryDirectory() as temporary:
        yield export_run(run, "run", Path(temporary))


def run_model(run: Run, plan: ExecutionPlan) -> Model:
    """Return the exported model of a run, for the CPU."""
    with exported_run(run) as folder:
        return Model(folder, Provider.CPU, plan)


def training_of(manifest: Manifest) -> tuple[Recipe, TrainingProvenance]:
    """Return the recipe that a model was trained with, and the record of its training.

    Raises QualityError for an imported model, or if the recipe is not an included one.
    """
    from training.recipe.errors import RecipeError  # noqa: PLC0415
    from training.recipe.loading import load_recipe  # noqa: PLC0415 - needs PyTorch

    title = f"{manifest.name}@{manifest.version}"
    if not isinstance(manifest.provenance, TrainingProvenance):
        raise QualityError(f"{title} is an imported model: its training data are not known")
    try:
        return load_recipe(manifest.provenance.recipe), manifest.provenance
    except RecipeError as error:
        raise QualityError(
            f"{title} was trained with the recipe {manifest.provenance.recipe!r}, which is not "
            "available: evaluate its run instead"
        ) from error


def recorded_data(manifest: Manifest) -> TrainingData | None:
    """Return the record of the images that a model was trained on, or None without a record."""
    provenance = manifest.provenance
    if not isinstance(provenance, TrainingProvenance):
        return None
    return next((record for record in provenance.data if record.role == "data"), None)


def training_data(manifest: Manifest, data: str | None, **fields: Any) -> DataOptions:
    """Return the options of the data that a model was trained on, or of `data` instead.

    `fields` are those that the manifest states, such as the resolution. Raises QualityError if the
    data have no known name, and the errors of `data_location`.
    """
    location = {} if data is None else data_location(data)
    options = selected_data(recorded_data(manifest), **fields, **location)
    if options.name is None and options.path is None:
        raise QualityError(
            f"the data that {manifest.name}@{manifest.version} was trained on have no known name; "
            "provide them with --data PATH"
        )
    return options
