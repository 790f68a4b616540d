"""Evaluation targets: exported models of text, and runs that train them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from service.runtime.models.manifest import read_manifest
from service.runtime.models.model import Model
from service.runtime.models.parts.provenance import TrainingData
from service.runtime.onnx.sessions import Array, ExecutionPlan, Provider
from training.data.images import data_location
from training.data.provenance import description
from training.data.sources import DataError
from training.evaluation.errors import QualityError
from training.evaluation.models import RECIPE_FILE, model_folder, run_model, training_of
from training.evaluation.text.evaluation import (
    DEFAULT_SAMPLES,
    TextGenerator,
    figures_of,
    measure_rows,
)

if TYPE_CHECKING:
    from training.data.text.corpus import TextData
    from training.evaluation.evaluation import EvaluationSettings, Progress
    from training.evaluation.text.report import TextEvaluation
    from training.recipe.schema import Recipe
    from training.run import Run

_PLAN = ExecutionPlan(workers=1, threads=1, max_rows=64)


@dataclass(frozen=True)
class TextTarget:
    """A model of text with its data; for a run also its maximum-likelihood generator."""

    unsupported_options: ClassVar[frozenset[str]] = frozenset({"truncation", "split"})

    title: str
    model: Model
    generators: Sequence[TextGenerator]
    data: TextData
    reference: str
    seed_start: int = 0
    log: Sequence[Mapping[str, Any]] = field(default=(), repr=False)

    @classmethod
    def evaluate_all(
        cls,
        targets: Sequence[TextTarget],
        settings: EvaluationSettings,
        progress: Progress | None,
    ) -> Sequence[TextEvaluation]:
        """Evaluate each target on the held-out texts of its recipe. Raises QualityError."""
        from training.evaluation.text.report import TextEvaluation  # noqa: PLC0415

        samples = settings.samples or DEFAULT_SAMPLES
        results = []
        for target in targets:
            if not len(target.data.held_out):
                raise QualityError(f"{target.reference} has no texts")
            rows = measure_rows(
                target.generators, target.data, samples, target.seed_start, progress
            )
            figures = figures_of(rows, samples, target.data, target.reference, target.seed_start)
            results.append(
                TextEvaluation(target.title, target.model.digest, rows, figures, target.log)
            )
        return results


def open_text_target(
    target: str,
    models: Path,
    *,
    data: str | None = None,
    seed_start: int = 0,
    checkpoint: str = "last",
) -> TextTarget | None:
    """Open a model of text or a run that trains one; return None for other targets.

    `data` replaces the data of the recipe. Raises QualityError, DataError, and the errors of
    loading a model.
    """
    if (Path(target) / RECIPE_FILE).is_file():
        return _open_run(Path(target), data, seed_start, checkpoint)
    folder = model_folder(target, models)
    if folder is None:
        return None
    manifest = read_manifest(folder)
    if manifest.text is None:
        return None
    title = f"{manifest.name}@{manifest.version}"
    recipe, training = training_of(manifest)
    model = Model(folder, Provider.CPU, _PLAN)
    texts = _texts(title, recipe, data, training.data)
    generator = TextGenerator("the model", manifest, model.run)
    return TextTarget(title, model, [generator], texts, _reference(recipe, data), seed_start)


def _open_run(
    folder: Path, data: str | None, seed_start: int, checkpoint: str
) -> TextTarget | None:
    from training.run import Run  # noqa: PLC0415 - slow to import

    run = Run(folder)
    if run.recipe().game.served_task != "text":
        return None
    run = run.at(checkpoint)
    model = run_model(run, _PLAN)
    return target_of_run(run, model, data, seed_start)


def target_of_run(
    run: Run, model: Model, data: str | None = None, seed_start: int = 0
) -> TextTarget:
    """Return the target of a run and its exported `model`. Raises DataError."""
    recipe = run.recipe()
    return TextTarget(
        f"{run.name}, {run.checkpoint_path.stem}",
        model,
        generators_of_run(run, model),
        _texts(run.name, recipe, data, run.provenance().data),
        _reference(recipe, data),
        seed_start,
        run.read_log(),
    )


def generators_of_run(run: Run, model: Model) -> list[TextGenerator]:
    """Return the exported generator of a run, and that before the adversarial phase, if any."""
    import torch  # noqa: PLC0415 - models are evaluated without it

    from training.checkpoints import Checkpoint  # noqa: PLC0415
    from training.export.text import ServedStep  # noqa: PLC0415

    checkpoint = Checkpoint.load(run.checkpoint_path)
    pretrained = checkpoint.game["pretrained"]
    if not pretrained:
        return [TextGenerator("maximum likelihood", model.manifest, model.run)]
    generator = run.recipe().build_generator()
    generator.load_state_dict(pretrained)
    step = ServedStep(generator.eval())  # type: ignore[arg-type]

    @torch.no_grad()
    def run_step(_: str, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        logits, state = step(**{name: torch.from_numpy(feed) for name, feed in feeds.items()})
        return {"logits": logits.numpy(), "new_state": state.numpy()}

    return [
        TextGenerator("adversarial", model.manifest, model.run),
        TextGenerator("maximum likelihood", model.manifest, run_step),
    ]


def _texts(
    title: str, recipe: Recipe, data: str | None, records: Sequence[TrainingData]
) -> TextData:
    """Return the corpus of a recipe. Raises DataError, and QualityError for other texts."""
    if data is not None:
        located = recipe.data.model_copy(update=data_location(data))
        recipe = recipe.model_copy(update={"data": located})
    texts: TextData = recipe.game.prepare_data(recipe)  # type: ignore[assignment]
    for record in records:
        if texts.fingerprint != record.fingerprint:
            raise DataError(
                f"{title} was trained on {description(record)}; these texts differ, and may "
                "contain held-out ones; provide the same texts with --data PATH"
            )
    return texts


def _reference(recipe: Recipe, data: str | None) -> str:
    title = recipe.data.dataset_title if data is None else Path(data).name
    return f"{title}, split test"
