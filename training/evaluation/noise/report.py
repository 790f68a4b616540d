"""Tables, images and charts of an evaluation, and comparisons of evaluations."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from service.runtime.models.parts.measurements import Quality
from training.evaluation.errors import QualityError
from training.evaluation.evaluation import Comparison
from training.evaluation.metrics import find_metric
from training.evaluation.metrics.class_accuracy import CLASS_ACCURACY
from training.evaluation.metrics.kernel_distance import KERNEL_DISTANCE
from training.evaluation.noise.results import Evaluation, Neighbors, ReportImages
from training.evaluation.report.document import (
    CaptionedImage,
    Chart,
    ChartGroup,
    Gallery,
    Line,
    Note,
    Part,
    Section,
    Table,
)
from training.evaluation.report.formatting import (
    direction_arrow,
    format_interval,
    format_real,
    format_value,
    metric_title,
)
from training.evaluation.report.page import image_grid, log_charts, warnings_and_notes


@dataclass(frozen=True)
class NoiseResult:
    """An evaluation and the images for its report."""

    evaluation: Evaluation
    # None if they were not selected.
    images: ReportImages | None

    @property
    def title(self) -> str:
        """The name of the target."""
        return self.evaluation.subject

    @property
    def digest(self) -> str | None:
        """The digest of the model that was measured."""
        return self.evaluation.digest

    @property
    def figures(self) -> tuple[Quality, ...]:
        """The metrics, in the form of a manifest's `quality`."""
        return self.evaluation.figures

    def to_json(self) -> dict[str, Any]:
        """Return the evaluation as a JSON object."""
        content: dict[str, Any] = json.loads(self.evaluation.model_dump_json(exclude_none=True))
        return content

    def summary(self) -> Section:
        """Return the metrics and the measurement conditions as a report section."""
        evaluation = self.evaluation
        parts: list[Part] = [*basis(evaluation), metric_table(evaluation)]
        if evaluation.per_class:
            parts.append(class_table(evaluation))
        return Section(evaluation.subject, parts)

    def details(self) -> list[Section]:
        """Return report sections with images, the curve over sample counts, and a run's log.

        Empty if the images of the report were not selected.
        """
        images, curve = self.images, self.evaluation.curve
        if images is None:
            return []
        sections = [Section("Images", _image_galleries(images), level=3)]
        if images.nearest:
            note = (
                "On the left of each strip a sample, then the training images nearest to it; the "
                "samples nearest to a training image come first. Below a distance of 1, two images "
                "are considered equal."
            )
            gallery = Gallery([_strip(each) for each in images.nearest])
            sections.append(Section("Nearest training images", [Note(note), gallery], level=3))
        if curve:
            real = [(point.samples, point.real) for point in curve if point.real is not None]
            lines = [
                Line(self.title, [(point.samples, point.made) for point in curve]),
                Line("real images", real),
            ]
            chart = Chart(lines, x_label="samples", y_label="Fréchet distance", from_zero=True)
            sections.append(Section("Number of samples", [ChartGroup([chart])], level=3))
        return [*sections, *log_charts(images.log)]

    @classmethod
    def compare(cls, results: Sequence[NoiseResult]) -> Comparison:
        """Compare evaluations. Raises QualityError if their references or networks differ."""
        evaluations = [result.evaluation for result in results]
        verdicts = compare_evaluations(evaluations)
        parts: list[Part] = [*common_basis(evaluations), comparison_table(evaluations)]
        return Comparison(Section("Comparison", parts), verdicts)


def metric_table(evaluation: Evaluation) -> Table:
    """Return the metrics of an evaluation next to the values of real images."""
    return Table(
        [
            "metric",
            "",
            "value",
            "95% interval",
            "real images",
            "reference",
            "samples",
            "how to read it",
        ],
        [
            [
                metric_title(figure.metric),
                direction_arrow(figure.metric),
                format_value(figure.metric, figure.value),
                format_interval(figure),
                format_real(figure),
                f"{figure.reference_samples:,}" + (" (default)" if figure.reference_choice else ""),
                f"{figure.samples:,}",
                _note(figure),
            ]
            for figure in evaluation.figures
        ],
        terminal_columns=6,
    )


def _note(figure: Quality) -> str:
    if find_metric(figure.metric) is CLASS_ACCURACY:
        return f"by {figure.feature_network}"
    return figure.note or ""


def class_table(evaluation: Evaluation) -> Table:
    """Return the metrics of each class."""
    return Table(
        [
            "class",
            "kernel distance ↓",
            "95% interval",
            "real images",
            "precision ↑",
            "recall ↑",
            "class accuracy ↑",
        ],
        [
            [
                name,
                KERNEL_DISTANCE.format(each.kernel_distance),
                f"{KERNEL_DISTANCE.format(each.low)} to {KERNEL_DISTANCE.format(each.high)}",
                KERNEL_DISTANCE.format(each.real),
                f"{each.precision:.1%}",
                f"{each.recall:.1%}",
                CLASS_ACCURACY.format(each.obedience),
            ]
            for name, each in evaluation.per_class.items()
        ],
    )


def basis(evaluation: Evaluation) -> list[Note]:
    """Return the measurement conditions of an evaluation as text, and its warnings."""
    first = evaluation.figures[0]
    held_out = "held out from training" if evaluation.held_out else "may contain training images"
    lines = [
        f"{evaluation.samples:,} samples"
        + (f" of seeds {evaluation.seeds}" if evaluation.seeds else "")
        + (f", truncation {evaluation.truncation:g}" if evaluation.truncation is not None else ""),
        f"reference: {first.reference_samples:,} images of {evaluation.reference} ({held_out}; "
        f"sha256 {evaluation.reference_sha256[:12]})"
        + (f"; {evaluation.reference_choice} (--reference)" if evaluation.reference_choice else ""),
        f"features: {evaluation.feature_network}; resizing: {first.resizing}",
    ]
    return warnings_and_notes(lines, evaluation.warnings)


def common_basis(evaluations: Sequence[Evaluation]) -> list[Note]:
    """Return the measurement conditions of several evaluations, without duplicates."""
    each = [basis(evaluation) for evaluation in evaluations]
    samples = [
        Note(f"{evaluation.subject}: {notes[0]}")
        for evaluation, notes in zip(evaluations, each, strict=True)
    ]
    if len({notes[0] for notes in each}) == 1:
        samples = each[0][:1]
    notes = [*samples, *dict.fromkeys(note for notes in each for note in notes[1:])]
    if len({evaluation.samples for evaluation in evaluations}) > 1:
        text = (
            "the numbers of samples differ, and the Fréchet distance falls with the number of "
            "samples; use the kernel distance"
        )
        notes.append(Note(text, is_warning=True))
    return notes


def comparison_table(evaluations: Sequence[Evaluation]) -> Table:
    """Return the metrics of several evaluations in columns."""
    rows = []
    for key in dict.fromkeys(figure.metric for each in evaluations for figure in each.figures):
        figures = [
            next((figure for figure in each.figures if figure.metric == key), None)
            for each in evaluations
        ]
        real = next((f.real for f in figures if f is not None and f.real is not None), None)
        values = (format_value(key, figure.value) if figure else "" for figure in figures)
        rows.append([metric_title(key), direction_arrow(key), *values, format_value(key, real)])
    return Table(["metric", "", *(each.subject for each in evaluations), "real images"], rows)


@dataclass(frozen=True)
class DistanceVerdict:
    """Which of two targets has the lower kernel distance.

    `sure` is True if their confidence intervals do not overlap.
    """

    better: str
    worse: str
    sure: bool

    def __str__(self) -> str:
        if self.sure:
            return f"{self.better} is closer to the real images than {self.worse}"
        return (
            f"no significant difference between {self.better} and {self.worse}: their intervals "
            "overlap"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as a JSON object."""
        return {"better": self.better, "worse": self.worse, "sure": self.sure}


def compare_evaluations(evaluations: Sequence[Evaluation]) -> list[DistanceVerdict]:
    """Compare the kernel distances of each pair of evaluations, the best evaluation first.

    The numbers of samples may differ, because the kernel distance is unbiased. Raises QualityError
    if the references or the feature networks differ.
    """
    first = evaluations[0]
    for other in evaluations[1:]:
        for field, title in (
            ("reference_sha256", "references"),
            ("feature_network", "feature networks"),
        ):
            if getattr(other, field) != getattr(first, field):
                raise QualityError(
                    f"{first.subject} and {other.subject} cannot be compared: their {title} differ"
                )
    ranked = sorted(evaluations, key=lambda each: each.figures[0].value)
    verdicts = []
    for better, worse in combinations(ranked, 2):
        a, b = better.figures[0], worse.figures[0]
        sure = a.high is not None and b.low is not None and a.high < b.low
        verdicts.append(DistanceVerdict(better.subject, worse.subject, sure))
    return verdicts


def _image_galleries(images: ReportImages) -> list[Gallery]:
    samples = image_grid(images.samples, images.columns)
    return [
        Gallery(
            [
                CaptionedImage(samples, f"the first {len(images.samples)} samples, not selected"),
                CaptionedImage(image_grid(images.real), "random real images"),
            ]
        ),
        Gallery(
            [
                CaptionedImage(
                    image_grid(images.most_realistic),
                    "the highest realism score (Kynkäänniemi et al. 2019)",
                ),
                CaptionedImage(image_grid(images.least_realistic), "the lowest realism score"),
            ]
        ),
    ]


def _strip(neighbors: Neighbors) -> CaptionedImage:
    pixels = np.concatenate([neighbors.generated[None], neighbors.training])
    return CaptionedImage(image_grid(pixels, len(pixels)), f"distance {neighbors.distance:.1f}")
