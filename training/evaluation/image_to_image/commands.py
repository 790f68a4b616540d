"""`ganymede evaluate` and `compare` for models that make pictures of pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import typer
from rich.table import Table

from training.evaluation.errors import QualityError
from training.evaluation.features.networks import open_network
from training.evaluation.image_to_image.comparison import compared, verdicts
from training.evaluation.image_to_image.evaluation import MOST, measure_ways
from training.evaluation.image_to_image.targets import ImageToImageTarget
from training.evaluation.report.figure_text import direction, said
from training.evaluation.report.image_to_image import (
    basis,
    told,
    write_comparison_report,
    write_translation_report,
)
from training.evaluation.report.recording import record_figures
from training.evaluation.report.terminal import console, progress


def evaluate_translation(
    translator: ImageToImageTarget,
    network: str,
    *,
    samples: int | None,
    record: bool,
    report: Path | None,
    as_json: bool,
) -> None:
    """Measure a model against the pictures that its recipe held out, or those of --data."""
    model = translator.model
    if record and not model.folder.is_dir():
        raise QualityError(f"--record: {translator.title} is no model of a repository")
    chosen = open_network(network)
    with progress() as show:
        ways = measure_ways(translator.recipe, model, chosen, samples or MOST, show)
    figures = tuple(figure for way in ways for figure in way.figures)
    if record:
        record_figures(model.folder, model.digest, figures)
    if report is not None:
        write_translation_report(report, translator.title, ways, chosen, translator.log)
    if as_json:
        typer.echo(json.dumps({"subject": translator.title, **told(ways, chosen)}, indent=2))
        return
    screen = console()
    screen.print(translator.title, style="bold", markup=False)
    for line in basis(ways, chosen):
        screen.print(line, highlight=False, markup=False, soft_wrap=True)
    shown = Table("figure", "", "value", str(figures[0].baseline_name), box=None)
    for figure in figures:
        values = (said(figure.metric, value) for value in (figure.value, figure.baseline))
        shown.add_row(figure.metric, direction(figure.metric), *values)
    screen.print(shown)
    if report is not None:
        screen.print(f"wrote {report}", markup=False, soft_wrap=True)


def compare_translations(
    translators: Sequence[ImageToImageTarget],
    network: str,
    *,
    samples: int | None,
    report: Path | None,
    as_json: bool,
) -> None:
    """Hold models against each other that were measured by the same true pictures."""
    chosen = open_network(network)
    with progress() as show:
        measured = [
            (each.title, measure_ways(each.recipe, each.model, chosen, samples or MOST, show))
            for each in translators
        ]
    groups = compared(measured)
    found = [verdict for group in groups for verdict in verdicts(group)]
    if report is not None:
        write_comparison_report(report, groups, found, chosen)
    if as_json:
        said_of_each = [{"subject": title, **told(ways, chosen)} for title, ways in measured]
        said_of_all = [verdict.said_to_scripts() for verdict in found]
        typer.echo(json.dumps({"evaluations": said_of_each, "verdicts": said_of_all}, indent=2))
        return
    screen = console()
    for group in groups:
        for line in basis([group[0].way], chosen):
            screen.print(line, highlight=False, markup=False, soft_wrap=True)
        plain = str(group[0].way.figures[0].baseline_name)
        shown = Table("figure", "", *(member.title for member in group), plain, box=None)
        for rows in zip(*(member.figures for member in group), strict=True):
            metric = rows[0].metric
            values = [said(metric, row.value) for row in rows]
            shown.add_row(metric, direction(metric), *values, said(metric, rows[0].baseline))
        screen.print(shown)
    for verdict in found:
        screen.print(str(verdict), markup=False, soft_wrap=True)
    if report is not None:
        screen.print(f"wrote {report}", markup=False, soft_wrap=True)
