"""Evaluation targets: exported text-to-image models, and runs that train them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from service.runtime.models.manifest import read_manifest
from service.runtime.models.model import Model
from service.runtime.models.parts.provenance import TrainingData
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from training.captions.encoders import NamedEncoder, open_encoder, open_encoder_of
from training.captions.reading import CaptionOptions
from training.data.images import DataOptions, data_location
from training.data.provenance import check_training_data
from training.evaluation.errors import QualityError
from training.evaluation.features.networks import open_network
from training.evaluation.models import (
    RECIPE_FILE,
    model_folder,
    recorded_data,
    run_model,
    training_data,
    training_of,
)
from training.evaluation.report.figures import FiguresResult

if TYPE_CHECKING:
    from training.evaluation.evaluation import EvaluationSettings, Progress
    from training.recipe.schema import Recipe
    from training.run import Run

_PLAN = ExecutionPlan(workers=1, threads=1, max_rows=16)


@dataclass(frozen=True)
class TextToImageTarget:
    """A text-to-image model with its text encoder, and its training data with their captions.

    `trained_on` is the record of the data that are the model's own.
    """

    unsupported_options: ClassVar[frozenset[str]] = frozenset({"truncation", "split"})

    title: str
    model: Model
    encoder: NamedEncoder
    data: DataOptions
    captions: CaptionOptions
    trained_on: TrainingData | None = None
    seed_start: int = 0

    @classmethod
    def evaluate_all(
        cls,
        targets: Sequence[TextToImageTarget],
        settings: EvaluationSettings,
        progress: Progress | None,
    ) -> Sequence[FiguresResult]:
        """Evaluate each target on its held-out captions. Raises QualityError and DataError."""
        from training.evaluation.text_to_image.evaluation import (  # noqa: PLC0415
            SAMPLES,
            evaluate_text_to_image,
            open_real_pairs,
        )

        if settings.reference_samples is not None:
            raise QualityError("--reference does not apply to text-to-image models")
        network = open_network(settings.network)
        results = []
        for target in targets:
            reference, pairs = open_real_pairs(target.data, target.captions, progress)
            if target.trained_on is not None:
                check_training_data(target.title, target.trained_on, reference.training.images)
            figures = evaluate_text_to_image(
                target.model,
                target.encoder,
                pairs,
                network,
                samples=settings.samples or SAMPLES,
                seed_start=target.seed_start,
                progress=progress,
            )
            results.append(FiguresResult(target.title, target.model.digest, figures, "images"))
        return results


def open_text_to_image_target(
    target: str,
    models: Path,
    *,
    data: str | None = None,
    seed_start: int = 0,
    checkpoint: str = "last",
) -> TextToImageTarget | None:
    """Open a text-to-image model or a run that trains one; return None for other targets.

    `data` replaces the data of the training. Raises QualityError, DataError, TextEncoderError, and
    the errors of loading a model.
    """
    if (Path(target) / RECIPE_FILE).is_file():
        return _open_run(Path(target), data, seed_start, checkpoint)
    folder = model_folder(target, models)
    if folder is None:
        return None
    manifest = read_manifest(folder)
    if manifest.text_input is None:
        return None
    title = f"{manifest.name}@{manifest.version}"
    recipe, _ = training_of(manifest)
    record = recorded_data(manifest)
    image = manifest.image_spec
    options = training_data(manifest, data, resolution=image.height, channels=image.channels)
    return TextToImageTarget(
        title,
        Model(folder, Provider.CPU, _PLAN),
        open_encoder_of(manifest, folder.parents[1]),
        options,
        _captions(recipe),
        record if data is None else None,
        seed_start,
    )


def _captions(recipe: Recipe) -> CaptionOptions:
    captions: CaptionOptions = recipe.game.captions  # type: ignore[attr-defined]
    return captions


def _open_run(
    folder: Path, data: str | None, seed_start: int, checkpoint: str
) -> TextToImageTarget | None:
    from training.run import Run  # noqa: PLC0415

    run = Run(folder)
    if run.recipe().game.served_task != "text-to-image":
        return None
    run = run.at(checkpoint)
    return target_of_run(run, run_model(run, _PLAN), data, seed_start, checkpoint)


def target_of_run(
    run: Run,
    model: Model,
    data: str | None = None,
    seed_start: int = 0,
    checkpoint: str = "last",
) -> TextToImageTarget:
    """Return the target of a run and its exported `model`. Raises TextEncoderError."""
    recipe = run.recipe()
    captions = _captions(recipe)
    options = recipe.data if data is None else recipe.data.model_copy(update=data_location(data))
    return TextToImageTarget(
        f"{run.name}, {checkpoint} checkpoint",
        model,
        open_encoder(captions.encoder),
        options,
        captions,
        recorded_data(model.manifest) if data is None else None,
        seed_start,
    )
