"""Evaluation targets and results of models that generate sounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from service.runtime.models.manifest import read_manifest
from service.runtime.models.model import Model
from service.runtime.models.parts.measurements import Quality
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from training.data.images import DataOptions, data_location
from training.data.sounds.options import SoundOptions
from training.evaluation.errors import QualityError
from training.evaluation.models import RECIPE_FILE, model_folder, recorded_data, run_model
from training.evaluation.report.document import Note, Section, Table
from training.evaluation.report.formatting import (
    direction_arrow,
    format_interval,
    format_real,
    format_value,
    metric_title,
)

if TYPE_CHECKING:
    from training.evaluation.evaluation import Comparison, EvaluationSettings, Progress

_PLAN = ExecutionPlan(workers=1, threads=1, max_rows=16)


@dataclass(frozen=True)
class SoundTarget:
    """A model of sounds, the data that it was trained on, and the first seed to measure."""

    unsupported_options: ClassVar[frozenset[str]] = frozenset({"truncation", "split"})
    title: str
    model: Model
    data: DataOptions
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
        return [
            SoundResult(
                target.title,
                target.model.digest,
                evaluate_sounds(
                    target.model,
                    target.data,
                    samples=settings.samples or SAMPLES,
                    seed_start=target.seed_start,
                    progress=progress,
                ),
            )
            for target in targets
        ]


@dataclass(frozen=True)
class SoundResult:
    """The figures of a model of sounds."""

    title: str
    digest: str | None
    figures: tuple[Quality, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the result as a JSON object."""
        return {
            "target": self.title,
            "digest": self.digest,
            "figures": [figure.model_dump(exclude_none=True) for figure in self.figures],
        }

    def summary(self) -> Section:
        """Return the figures as a table, and how they were measured."""
        rows = [
            [
                f"{metric_title(figure.metric)} {direction_arrow(figure.metric)}".strip(),
                format_value(figure.metric, figure.value),
                format_interval(figure),
                format_real(figure),
                f"{figure.samples:,}",
            ]
            for figure in self.figures
        ]
        notes = [f"{metric_title(f.metric)}: {f.note}" for f in self.figures if f.note]
        basis = self.figures[0]
        notes.append(f"by {basis.feature_network}; {basis.reference}")
        table = Table(["metric", "value", "95 %", "real sounds", "sounds"], rows)
        return Section(self.title, [table, *map(Note, notes)])

    def details(self) -> list[Section]:
        """Return no further sections."""
        return []

    @classmethod
    def compare(cls, results: Sequence[SoundResult]) -> Comparison:
        """Raise QualityError: there is no test of the differences between sounds."""
        raise QualityError(
            f"{results[0].title} generates sounds, which are not compared in pairs: "
            "use ganymede evaluate for each model"
        )


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
    location = {"name": record.name if record else None, "path": None}
    if data is not None:
        location = data_location(data)
    if not any(location.values()):
        raise QualityError(
            f"the data that {model.manifest.name} was trained on have no known name; provide them "
            "with --data PATH"
        )
    sound = SoundOptions(
        rate=audio.sample_rate, samples=audio.samples, peak=record.peak if record else None
    )
    title = f"{model.manifest.name}@{model.manifest.version}"
    options = DataOptions.model_validate({**location, "sound": sound})
    return SoundTarget(title, model, options, seed_start)


def _open_run(
    folder: Path, data: str | None, seed_start: int, checkpoint: str
) -> SoundTarget | None:
    from training.run import Run  # noqa: PLC0415 - slow to import

    run = Run(folder)
    recipe = run.recipe()
    if recipe.data.sound is None:
        return None
    run = run.at(checkpoint)
    model = run_model(run, _PLAN)
    options = recipe.data if data is None else recipe.data.model_copy(update=data_location(data))
    return SoundTarget(f"{run.name}, {checkpoint} checkpoint", model, options, seed_start)
