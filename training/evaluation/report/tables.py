"""Figures as people read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from rich.table import Table

from service.runtime.models.manifest import Quality
from training.evaluation.errors import QualityError
from training.evaluation.report.figure_text import direction, said
from training.evaluation.results import Evaluation


def interval(figure: Quality) -> str:
    """Return the confidence interval of a figure, if it has one."""
    if figure.low is None or figure.high is None:
        return ""
    return f"{said(figure.metric, figure.low)} to {said(figure.metric, figure.high)}"


def table(evaluation: Evaluation) -> Table:
    """Return the figures of one evaluation; what a real set scores stands beside them."""
    shown = Table("figure", "", "value", "95% interval", "real pictures", box=None)
    for figure in evaluation.figures:
        real = said(figure.metric, figure.real)
        if real and figure.real_samples not in (None, figure.samples):
            real += f" ({figure.real_samples:,})"
        shown.add_row(
            figure.metric,
            direction(figure.metric),
            said(figure.metric, figure.value),
            interval(figure),
            real,
        )
    return shown


def class_table(evaluation: Evaluation) -> Table:
    """Return the figures of each class."""
    shown = Table("class", "kernel distance ↓", "precision ↑", "recall ↑", "obedience ↑", box=None)
    for name, figures in evaluation.per_class.items():
        shown.add_row(
            name,
            f"{figures.kernel_distance:.5f}",
            f"{figures.precision:.1%}",
            f"{figures.recall:.1%}",
            said("class obedience", figures.obedience),
        )
    return shown


def basis(evaluation: Evaluation) -> list[str]:
    """Return what every figure of an evaluation rests on, and what to beware of; a line each."""
    first = evaluation.figures[0]
    held = "not trained on" if evaluation.held_out else "or pictures that may have been trained on"
    return [
        f"{evaluation.samples:,} samples"
        + (f" of seeds {evaluation.seeds}" if evaluation.seeds else "")
        + (f", truncation {evaluation.truncation:g}" if evaluation.truncation is not None else ""),
        f"against {first.reference_samples:,} pictures of {evaluation.reference} ({held}; "
        f"sha256 {evaluation.reference_sha256[:12]})",
        f"by {evaluation.feature_network}, resized: {first.resizing}",
        *(f"beware: {warning}" for warning in evaluation.warnings),
    ]


def common_basis(evaluations: Sequence[Evaluation]) -> list[str]:
    """Return what the figures of several evaluations rest on; where they differ, of each."""
    of_each = [basis(evaluation) for evaluation in evaluations]
    first = [f"{e.subject}: {lines[0]}" for e, lines in zip(evaluations, of_each, strict=True)]
    if len({lines[0] for lines in of_each}) == 1:
        first = of_each[0][:1]
    told = [*first, *dict.fromkeys(line for lines in of_each for line in lines[1:])]
    if len({evaluation.samples for evaluation in evaluations}) > 1:
        told.append(
            "beware: the Fréchet distance falls with the number of samples, which is not the same: "
            "go by the kernel distance"
        )
    return told


@dataclass(frozen=True)
class Verdict:
    """What two kernel distances say of two subjects."""

    better: str
    worse: str
    # Whether their intervals are apart.
    sure: bool

    def __str__(self) -> str:
        if self.sure:
            return f"{self.better} is nearer to the real pictures than {self.worse}"
        return f"{self.better} and {self.worse} cannot be told apart: their intervals overlap"


def verdicts(evaluations: Sequence[Evaluation]) -> list[Verdict]:
    """Hold every two evaluations' kernel distances against each other, the best first.

    Raises QualityError where they do not compare: other references or networks. Counts may differ,
    since the kernel distance has no bias.
    """
    for evaluation in evaluations[1:]:
        for key, title in (
            ("reference_sha256", "reference"),
            ("feature_network", "feature network"),
        ):
            if getattr(evaluation, key) != getattr(evaluations[0], key):
                raise QualityError(
                    f"{evaluations[0].subject} and {evaluation.subject} do not compare: "
                    f"they have another {title}"
                )
    ranked = sorted(evaluations, key=lambda each: each.figures[0].value)
    found = []
    for better, worse in combinations(ranked, 2):
        a, b = better.figures[0], worse.figures[0]
        apart = a.high is not None and b.low is not None and a.high < b.low
        found.append(Verdict(better.subject, worse.subject, apart))
    return found


def comparison_table(evaluations: Sequence[Evaluation]) -> Table:
    """Return the figures of several evaluations side by side."""
    shown = Table("figure", "", *(each.subject for each in evaluations), "real pictures", box=None)
    metrics = list(dict.fromkeys(f.metric for each in evaluations for f in each.figures))
    for metric in metrics:
        figures = [
            next((f for f in each.figures if f.metric == metric), None) for each in evaluations
        ]
        real = next((f.real for f in figures if f and f.real is not None), None)
        shown.add_row(
            metric,
            direction(metric),
            *(said(metric, f.value) if f else "" for f in figures),
            said(metric, real),
        )
    return shown
