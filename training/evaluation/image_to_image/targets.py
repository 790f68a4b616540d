"""Evaluation targets: exported image-to-image models, and runs that train them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from service.runtime.models.manifest import read_manifest
from service.runtime.models.model import Model
from service.runtime.models.parts.provenance import TrainingData, TrainingProvenance
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from training.data.images import DataOptions, data_location, load_images
from training.data.provenance import check_training_data, description
from training.evaluation.errors import QualityError
from training.evaluation.models import RECIPE_FILE, model_folder, run_model

# Recipes need PyTorch, but noise models are evaluated without it.
if TYPE_CHECKING:
    from training.evaluation.evaluation import EvaluationSettings, Progress
    from training.evaluation.image_to_image.report import ImageToImageEvaluation
    from training.recipe.schema import Recipe

_PLAN = ExecutionPlan(workers=1, threads=0, max_rows=8)


@dataclass(frozen=True)
class ImageToImageTarget:
    """A model, the recipe with its data, and the log of a run."""

    unsupported_options: ClassVar[frozenset[str]] = frozenset({"truncation", "split", "seed"})

    title: str
    model: Model
    recipe: Recipe
    log: Sequence[Mapping[str, Any]] = ()

    @classmethod
    def evaluate_all(
        cls,
        targets: Sequence[ImageToImageTarget],
        settings: EvaluationSettings,
        progress: Progress | None,
    ) -> Sequence[ImageToImageEvaluation]:
        """Evaluate each target on the held-out pairs of its recipe. Raises QualityError."""
        from training.evaluation.features.networks import open_network  # noqa: PLC0415
        from training.evaluation.image_to_image.evaluation import (  # noqa: PLC0415
            DEFAULT_PAIRS,
            evaluate_directions,
        )
        from training.evaluation.image_to_image.report import ImageToImageEvaluation  # noqa: PLC0415

        network, samples = open_network(settings.network), settings.samples or DEFAULT_PAIRS
        results = []
        for target in targets:
            directions = evaluate_directions(
                target.recipe, target.model, network, samples, progress
            )
            results.append(
                ImageToImageEvaluation(
                    target.title, target.model.digest, directions, network, target.log
                )
            )
        return results


def open_image_to_image_target(
    target: str, models: Path, *, data: str | None = None, checkpoint: str = "last"
) -> ImageToImageTarget | None:
    """Open an image-to-image model or a run that trains one; return None for other targets.

    `data` replaces the data of the recipe. The generator of a run is exported first, so that the
    evaluated graph is the graph that would be served. Raises QualityError, and the errors of
    loading a model.
    """
    path = Path(target)
    if (path / RECIPE_FILE).is_file():
        return _open_run(path, data, checkpoint)
    folder = model_folder(target, models)
    if folder is None:
        return None
    manifest = read_manifest(folder)
    if manifest.input is None:
        return None
    from training.recipe.errors import RecipeError  # noqa: PLC0415
    from training.recipe.loading import load_recipe  # noqa: PLC0415

    provenance = manifest.provenance
    if not isinstance(provenance, TrainingProvenance):
        raise QualityError(
            f"{manifest.name} is an imported model, so its target images are not known; generate "
            "images and compare them with their targets using --pairs"
        )
    try:
        recipe = load_recipe(provenance.recipe)
    except RecipeError as error:
        raise QualityError(
            f"{manifest.name} was trained with the recipe {provenance.recipe!r}, which is not "
            "available: evaluate its run, or compare generated images with targets using --pairs"
        ) from error
    title = f"{manifest.name}@{manifest.version}"
    if data is None:
        _check_data(title, provenance.data, recipe)
    return ImageToImageTarget(title, Model(folder, Provider.CPU, _PLAN), _with_data(recipe, data))


def _open_run(folder: Path, data: str | None, checkpoint: str) -> ImageToImageTarget | None:
    from training.run import Run  # noqa: PLC0415 - slow to import

    run = Run(folder)
    recipe = run.recipe()
    if recipe.image_input is None:
        return None
    run = run.at(checkpoint)
    if data is None:
        _check_data(run.name, run.provenance().data, recipe)
    model = run_model(run, _PLAN)
    return ImageToImageTarget(
        f"{run.name}, {checkpoint} checkpoint", model, _with_data(recipe, data), run.read_log()
    )


def _check_data(title: str, records: Sequence[TrainingData], recipe: Recipe) -> None:
    """Raise an error unless the recipe still names the images that the model was trained on.

    Raises QualityError for other data than the recipe's, and DataError for changed data.
    """
    for record in records:
        options = recipe.data if record.role == "data" else recipe.required_source
        if options.path is None and options.name != record.name:
            raise QualityError(
                f"{title} was trained on {description(record)}; provide its images with --data PATH"
            )
        check_training_data(title, record, load_images(options))


def _with_data(recipe: Recipe, data: str | None) -> Recipe:
    """Return a copy of the recipe with another data location and the same other options."""
    if data is None:
        return recipe
    location = data_location(data)

    def relocate(options: DataOptions) -> DataOptions:
        return options.model_copy(update=location)

    source = recipe.source and relocate(recipe.source)
    return recipe.model_copy(update={"data": relocate(recipe.data), "source": source})
