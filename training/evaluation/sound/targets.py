"""Evaluation targets and results of models that generate sounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from service.runtime.models.manifest import read_manifest
from service.runtime.models.model import Model
from service.runtime.models.parts.provenance import TrainingData
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from training.data.images import DataOptions, data_location
from training.data.sounds.options import SoundOptions
from training.evaluation.errors import QualityError
from training.evaluation.models import (
    RECIPE_FILE,
    model_folder,
    recorded_data,
    run_model,
    training_data,
)
from training.evaluation.report.document import Note
from training.evaluation.report.figures import FiguresResult

if TYPE_CHECKING:
    from training.evaluation.evaluation import EvaluationSettings, Progress
    from training.evaluation.sound.real_sounds import RealSounds
    from training.run import Run

_PLAN = ExecutionPlan(workers=1, threads=1, max_rows=16)


@dataclass(frozen=True)
class SoundTarget:
    """A model of sounds, the data that it was trained on, and the first seed to measure.

    `record` identifies the sounds of the training, if it is known. `replaced` are data that a user
    gave instead of them.
    """

    unsupported_options: ClassVar[frozenset[str]] = frozenset({"truncation", "split"})
    title: str
    model: Model
    data: DataOptions
    record: TrainingData | None
    replaced: bool
    seed_start: int

    @classmethod
    def evaluate_all(
        cls,
        targets: Sequence[SoundTarget],
        settings: EvaluationSettings,
        progress: Progress | None,
    ) -> Sequence[SoundResult]:
        """Evaluate each target. Raises QualityError and DataError."""
        from training.evaluation.evaluation import EvaluationSettings  # noqa: PLC0415
        from training.evaluation.sound.evaluation import SAMPLES, evaluate_sounds  # noqa: PLC0415

        for key in ("network", "reference_samples"):
            if getattr(settings, key) != getattr(EvaluationSettings(), key):
                raise QualityError(f"{key.replace('_', ' ')}: not an option for models of sounds")
        results = []
        for target in targets:
            measured = evaluate_sounds(
                target.model,
                target.data,
                target.record,
                replaced=target.replaced,
                samples=settings.samples or SAMPLES,
                seed_start=target.seed_start,
                progress=progress,
            )
            results.append(
                SoundResult(
                    target.title, target.model.digest, measured.figures, "sounds", measured.real
                )
            )
        return results


@dataclass(frozen=True)
class SoundResult(FiguresResult):
    """The figures of a model of sounds, and the real sounds that it was measured with."""

    real: RealSounds

    def to_json(self) -> dict[str, Any]:
        """Return the result as a JSON object."""
        return super().to_json() | {
            "trained_on": self.real.trained_on,
            "held_out": {
                "title": self.real.held_out_title,
                "sounds": len(self.real.held_out),
                "new_to_generator": self.real.new_to_generator,
                "copies_left_out": self.real.copies,
            },
        }

    def basis(self) -> list[Note]:
        """Return what was held out, and what the model was trained on."""
        real = self.real
        return [
            Note(f"real sounds: {real.held_out_note}", is_warning=real.new_to_generator is False),
            Note(real.trained_on),
        ]


def open_sound_target(
    target: str,
    models: Path,
    *,
    data: str | None = None,
    seed_start: int = 0,
    checkpoint: str = "last",
) -> SoundTarget | None:
    """Open a model of sounds or a run that trains one; return None for other targets.

    `data` replaces the data of the training. Raises QualityError, and the errors of loading a
    model.
    """
    path = Path(target)
    if (path / RECIPE_FILE).is_file():
        return _open_run(path, data, seed_start, checkpoint)
    folder = model_folder(target, models)
    if folder is None or (audio := read_manifest(folder).audio) is None:
        return None
    model = Model(folder, Provider.CPU, _PLAN)
    record = recorded_data(model.manifest)
    sound = SoundOptions(
        rate=audio.sample_rate, samples=audio.samples, peak=record.peak if record else None
    )
    options = training_data(model.manifest, data, sound=sound)
    title = f"{model.manifest.name}@{model.manifest.version}"
    return SoundTarget(title, model, options, record, data is not None, seed_start)


def _open_run(
    folder: Path, data: str | None, seed_start: int, checkpoint: str
) -> SoundTarget | None:
    from training.run import Run  # noqa: PLC0415 - slow to import

    run = Run(folder)
    if run.recipe().data.sound is None:
        return None
    run = run.at(checkpoint)
    return target_of_run(run, run_model(run, _PLAN), data, seed_start, checkpoint)


def target_of_run(
    run: Run,
    model: Model,
    data: str | None = None,
    seed_start: int = 0,
    checkpoint: str = "last",
) -> SoundTarget:
    """Return the target of a run and its exported `model`."""
    recipe = run.recipe()
    options = recipe.data if data is None else recipe.data.model_copy(update=data_location(data))
    record = recorded_data(model.manifest)
    title = f"{run.name}, {checkpoint} checkpoint"
    return SoundTarget(title, model, options, record, data is not None, seed_start)
