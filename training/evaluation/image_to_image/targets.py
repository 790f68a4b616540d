"""What makes pictures of pictures, to be measured: an exported model, or a run in training."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.runtime.models.manifest import TrainingProvenance, read_manifest
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from training.data.datasets import KNOWN_DATASETS
from training.data.images import DataOptions
from training.evaluation.errors import QualityError
from training.evaluation.targets import RECIPE_FILE, model_folder

# Recipes need PyTorch, which a model that starts from noise is measured without.
if TYPE_CHECKING:
    from training.recipe.schema import Recipe

_PLAN = ExecutionPlan(workers=1, threads=0, max_rows=8)


@dataclass(frozen=True)
class ImageToImageTarget:
    """A model, and the recipe that says which pictures it was trained on; a run has a log."""

    title: str
    model: Model
    recipe: Recipe
    log: Sequence[Mapping[str, Any]] = ()


def open_image_to_image_target(
    wanted: str, models: Path, *, data: str | None = None, checkpoint: str = "last"
) -> ImageToImageTarget | None:
    """Open what `wanted` names where it makes pictures of pictures; None where it does not.

    `data` stands in for the pictures that it was trained on. Of a run, the generator is exported
    first, so that what is measured is what would be served. Raises QualityError, and what loading
    raises.
    """
    path = Path(wanted)
    if (path / RECIPE_FILE).is_file():
        return _run(path, data, checkpoint)
    folder = model_folder(wanted, models)
    if folder is None:
        return None
    manifest = read_manifest(folder)
    if manifest.input is None:
        return None
    from training.recipe.schema import RecipeError, load_recipe  # noqa: PLC0415

    made = manifest.provenance
    if not isinstance(made, TrainingProvenance):
        raise QualityError(
            f"{manifest.name} was not trained here, so nobody knows the true pictures; compare "
            "what it made with them by --pairs"
        )
    try:
        recipe = load_recipe(made.recipe)
    except RecipeError as error:
        raise QualityError(
            f"{manifest.name} was trained by the recipe {made.recipe!r}, which is not here: "
            "measure its run, or compare what it made with the true pictures by --pairs"
        ) from error
    title = f"{manifest.name}@{manifest.version}"
    return ImageToImageTarget(title, Model(folder, Provider.CPU, _PLAN), _on(recipe, data))


def _run(folder: Path, data: str | None, checkpoint: str) -> ImageToImageTarget | None:
    from training.export.exporter import export_run  # noqa: PLC0415 - slow to import
    from training.run import Run  # noqa: PLC0415

    run = Run(folder)
    recipe = run.recipe()
    if recipe.picture_input is None:
        return None
    run = run.at(checkpoint)
    with tempfile.TemporaryDirectory() as temporary:
        model = Model(export_run(run, "run", Path(temporary)), Provider.CPU, _PLAN)
    return ImageToImageTarget(
        f"{run.name}, {checkpoint} checkpoint", model, _on(recipe, data), run.read_log()
    )


def _on(recipe: Recipe, data: str | None) -> Recipe:
    """Return the recipe with other pictures, and all that it says of how they are taken."""
    if data is None:
        return recipe
    place = {"name": None, "path": data}
    if data in KNOWN_DATASETS and not Path(data).exists():
        place = {"name": data, "path": None}

    def there(options: DataOptions) -> DataOptions:
        return options.model_copy(update=place)

    source = recipe.source and there(recipe.source)
    return recipe.model_copy(update={"data": there(recipe.data), "source": source})
