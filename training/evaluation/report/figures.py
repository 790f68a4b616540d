"""The result of an evaluation that consists of figures alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from service.runtime.models.parts.measurements import Quality
from training.evaluation.errors import QualityError
from training.evaluation.report.document import Note, Section, Table
from training.evaluation.report.formatting import (
    direction_arrow,
    format_interval,
    format_real,
    format_value,
    metric_title,
)

if TYPE_CHECKING:
    from training.evaluation.evaluation import Comparison


@dataclass(frozen=True)
class FiguresResult:
    """The figures of a model; `rows` is what it generates, in plural."""

    title: str
    digest: str | None
    figures: tuple[Quality, ...]
    rows: str

    def to_json(self) -> dict[str, Any]:
        """Return the result as a JSON object."""
        return {
            "target": self.title,
            "digest": self.digest,
            "figures": [figure.model_dump(exclude_none=True) for figure in self.figures],
        }

    def summary(self) -> Section:
        """Return the figures as a table, and how they were measured."""
        baseline = next((f.baseline_name for f in self.figures if f.baseline_name), None)
        head = ["metric", "value", "95 %", f"real {self.rows}", self.rows]
        if baseline:
            head.insert(4, baseline)
        rows = []
        for figure in self.figures:
            row = [
                f"{metric_title(figure.metric)} {direction_arrow(figure.metric)}".strip(),
                format_value(figure.metric, figure.value),
                format_interval(figure),
                format_real(figure),
                f"{figure.samples:,}",
            ]
            if baseline:
                row.insert(4, format_value(figure.metric, figure.baseline))
            rows.append(row)
        notes = [f"{metric_title(f.metric)}: {f.note}" for f in self.figures if f.note]
        basis = self.figures[0]
        notes.append(f"by {basis.feature_network}; {basis.reference}")
        return Section(self.title, [Table(head, rows), *self.basis(), *map(Note, notes)])

    def basis(self) -> list[Note]:
        """Return what else the reader must know of the data; nothing by default."""
        return []

    def details(self) -> list[Section]:
        """Return no further sections."""
        return []

    @classmethod
    def compare(cls, results: Sequence[FiguresResult]) -> Comparison:
        """Raise QualityError: there is no test of the differences."""
        raise QualityError(
            f"{results[0].title} generates {results[0].rows}, which are not compared in pairs: "
            "use ganymede evaluate for each model"
        )
