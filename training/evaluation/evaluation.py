"""The interface of evaluations, and the functions that run them for all kinds of models.

`open_target` returns an `EvaluationTarget`, and evaluating it returns an `EvaluationResult`.
Comparing several results of the same kind returns a `Comparison`. `noise`, `image_to_image`,
`text_to_image`, `text` and `sound` implement these interfaces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from service.runtime.models.model import Model
from service.runtime.models.parts.measurements import Quality
from training.evaluation.errors import QualityError
from training.evaluation.report.document import Section

# Called with the stage, the number of processed images, and their total.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class EvaluationSettings:
    """The settings of an evaluation, for all kinds of targets. None selects the default."""

    # A path or a known name; default: the data that the model was trained on.
    data: str | None = None
    split: str | None = None
    samples: int | None = None
    reference_samples: int | None = None
    network: str = "efficientnet-lite0"
    class_accuracy: bool = True
    # Select the images of a report.
    report_images: bool = True


class EvaluationResult(Protocol):
    """The metrics of one target."""

    @property
    def title(self) -> str:
        """The name of the target."""

    @property
    def digest(self) -> str | None:
        """The digest of the model that was measured."""

    @property
    def figures(self) -> tuple[Quality, ...]:
        """The metrics, in the form of a manifest's `quality`."""

    def to_json(self) -> dict[str, Any]:
        """Return the result as a JSON object."""

    def summary(self) -> Section:
        """Return the metrics and the measurement conditions as a report section."""

    def details(self) -> list[Section]:
        """Return report sections with images and charts."""

    @classmethod
    def compare(cls, results: Sequence[Self]) -> Comparison:
        """Compare two or more results. Raises QualityError if they are not comparable."""


class Verdict(Protocol):
    """Which of two targets is better, and whether the difference is significant."""

    def __str__(self) -> str:
        """Return the verdict as text."""

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as a JSON object."""


@dataclass(frozen=True)
class Comparison:
    """A comparison of several results: tables, and a verdict for each pair of results."""

    summary: Section
    verdicts: Sequence[Verdict]
    details: Sequence[Section] = ()


class EvaluationTarget(Protocol):
    """A model, a run or a folder of images that can be evaluated."""

    # Options of `ganymede evaluate` that are invalid for targets of this kind.
    unsupported_options: ClassVar[frozenset[str]]

    @property
    def title(self) -> str:
        """A human-readable name."""

    @property
    def model(self) -> Model | None:
        """The model; None for a folder of images."""

    @classmethod
    def evaluate_all(
        cls, targets: Sequence[Self], settings: EvaluationSettings, progress: Progress | None
    ) -> Sequence[EvaluationResult]:
        """Evaluate targets of this kind on the same real images.

        Raises QualityError and DataError.
        """


def open_target(
    target: str,
    models: Path,
    *,
    data: str | None = None,
    truncation: float | None = None,
    seed_start: int = 0,
    checkpoint: str = "last",
) -> EvaluationTarget:
    """Open a model by ``name``, ``name@version`` or folder, the folder of a run, or images.

    `data` replaces the data of the recipe of any model but one from noise. `checkpoint`
    is the checkpoint of a run, ``last`` or ``best``. The generator of a run is exported first, so
    that the evaluated graph is the graph that would be served. Raises QualityError, and the errors
    of loading a model.
    """
    from training.evaluation.image_to_image.targets import open_image_to_image_target  # noqa: PLC0415
    from training.evaluation.noise.targets import open_noise_target  # noqa: PLC0415
    from training.evaluation.sound.targets import open_sound_target  # noqa: PLC0415
    from training.evaluation.text.targets import open_text_target  # noqa: PLC0415
    from training.evaluation.text_to_image.targets import open_text_to_image_target  # noqa: PLC0415

    text = open_text_target(target, models, data=data, seed_start=seed_start, checkpoint=checkpoint)
    if text is not None:
        return text
    image_to_image = open_image_to_image_target(target, models, data=data, checkpoint=checkpoint)
    if image_to_image is not None:
        return image_to_image
    sound = open_sound_target(
        target, models, data=data, seed_start=seed_start, checkpoint=checkpoint
    )
    if sound is not None:
        return sound
    text_to_image = open_text_to_image_target(
        target, models, data=data, seed_start=seed_start, checkpoint=checkpoint
    )
    if text_to_image is not None:
        return text_to_image
    return open_noise_target(
        target, models, truncation=truncation, seed_start=seed_start, checkpoint=checkpoint
    )


def evaluate_targets(
    targets: Sequence[EvaluationTarget],
    settings: EvaluationSettings,
    progress: Progress | None = None,
) -> Sequence[EvaluationResult]:
    """Evaluate one or more targets of the same kind on the same real images.

    Raises QualityError if the targets are of different kinds, and the errors of evaluations.
    """
    kind = type(targets[0])
    if any(type(target) is not kind for target in targets):
        raise QualityError("models of different tasks cannot be compared")
    return kind.evaluate_all(targets, settings, progress)


def compare_results(results: Sequence[EvaluationResult]) -> Comparison:
    """Compare two or more results of the same kind. Raises QualityError."""
    return type(results[0]).compare(results)
