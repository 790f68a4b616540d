"""Tables of the evaluation of generators of text, and of comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from service.runtime.models.parts.measurements import Quality
from training.evaluation.errors import QualityError
from training.evaluation.evaluation import Comparison
from training.evaluation.report.document import Note, Section, Table
from training.evaluation.report.page import log_charts
from training.evaluation.text.evaluation import TextRow, metrics_of


@dataclass(frozen=True)
class TextEvaluation:
    """The metrics of the generators of one target at several temperatures."""

    title: str
    digest: str | None
    # The last row contains the metrics of training texts.
    rows: Sequence[TextRow]
    figures: tuple[Quality, ...]
    log: Sequence[Mapping[str, Any]] = field(default=(), repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return the metrics of every row as a JSON object."""
        return {
            "subject": self.title,
            "figures": [
                figure.model_dump(mode="json", exclude_none=True) for figure in self.figures
            ],
            "rows": [
                {
                    "generator": row.generator,
                    "temperature": row.temperature,
                    "metrics": dict(row.values),
                    "samples": list(row.samples),
                }
                for row in self.rows
            ],
        }

    def summary(self) -> Section:
        """Return the metrics and the measurement conditions as a report section."""
        return Section(self.title, [*self._basis(), _table(self.rows)])

    def details(self) -> list[Section]:
        """Return report sections with samples and the log of a run."""
        sections = [
            Section(f"Samples: {row.title}", [Note(text or "(empty)") for text in row.samples], 3)
            for row in self.rows[:-1]
        ]
        return [*sections, *log_charts(self.log)]

    @classmethod
    def compare(cls, results: Sequence[TextEvaluation]) -> Comparison:
        """Compare generators in one table. Raises QualityError for different references."""
        references = {figure.reference for result in results for figure in result.figures}
        if len(references) > 1:
            raise QualityError(
                f"the models were evaluated on different texts: {', '.join(sorted(references))}"
            )
        rows = [
            TextRow(f"{result.title}, {row.generator}", row.temperature, row.values)
            for result in results
            for row in result.rows[:-1]
        ]
        table = _table([*rows, results[0].rows[-1]])
        return Comparison(Section("Comparison", [*results[0]._basis(), table]), [])

    def _basis(self) -> list[Note]:
        nll, other = self.figures[0], self.figures[1]
        return [
            Note(f"{other.samples:,} samples, {nll.samples:,} texts of {nll.reference}"),
            Note(
                "BLEU and self-BLEU by sacreBLEU, in units of the model, as the mean over samples "
                "against a set of references; a good model has the values of training texts"
            ),
        ]


def _table(rows: Sequence[TextRow]) -> Table:
    metrics = metrics_of(rows)
    return Table(
        ["generator", "temperature", *(f"{each.title} {each.arrow}".strip() for each in metrics)],
        [
            [
                row.generator,
                f"{row.temperature:g}" if row is not rows[-1] else "",
                *(each.format(row.values.get(each.name)) for each in metrics),
            ]
            for row in rows
        ],
    )
