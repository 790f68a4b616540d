"""The report of a search: one self-contained HTML page."""

from __future__ import annotations

from pathlib import Path

from training.evaluation.metrics import get_metric
from training.evaluation.report.document import (
    Chart,
    ChartGroup,
    Line,
    Note,
    Section,
    Table,
)
from training.evaluation.report.page import write_page
from training.evaluation.search.ranges import short_text
from training.evaluation.search.results import SearchResult, Trial


def write_search_report(path: Path, result: SearchResult) -> None:
    """Write the page. An existing file is replaced atomically."""
    metric = get_metric(result.metric)
    note = (
        f"{len(result.trials)} trials, compared by the {metric.title} measured during training; "
        f"{'higher' if metric.higher_is_better else 'lower'} is better. Trial 0 is the recipe "
        "itself."
    )
    sections = [Section("Result", [Note(f"{result.verdict}."), Note(note)])]
    if (confirmation := result.confirmation) is not None:
        text = (
            f"The {get_metric(confirmation.metric).title} of the best checkpoint against "
            f"{confirmation.reference}, with samples that were not used for any choice."
        )
        rows = [
            [str(seed), f"{own:.5f}", f"{best:.5f}"]
            for seed, own, best in zip(
                confirmation.seeds, confirmation.recipe, confirmation.best, strict=True
            )
        ]
        table = Table(["seed", "the recipe", "the best trial"], rows)
        sections.append(Section("Confirmation with other seeds", [Note(text), table]))
    sections.append(Section("Trials", [_trial_table(result), ChartGroup(_charts(result))]))
    write_page(path, f"Search of {result.recipe}", sections)


def _trial_table(result: SearchResult) -> Table:
    keys, metric = list(result.ranges), get_metric(result.metric)

    def row(trial: Trial) -> list[str]:
        values = (trial.values.get(key) for key in keys)
        return [
            str(trial.number),
            *("" if value is None else short_text(value) for value in values),
            "" if trial.figure is None else f"{trial.figure:.5g}",
            f"{trial.images:,}",
            trial.state,
        ]

    ranked = sorted(
        result.trials,
        key=lambda trial: (
            trial.state != "complete",
            trial.figure is None,
            metric.cost(trial.figure or 0.0),
        ),
    )
    head = ["trial", *keys, f"{metric.title} {metric.arrow}", "images", "state"]
    return Table(head, [row(trial) for trial in ranked])


def _charts(result: SearchResult) -> list[Chart]:
    """Return charts of the best value so far, and of all trials for each numeric range."""
    metric = get_metric(result.metric)
    complete = [
        (trial, trial.figure)
        for trial in result.trials
        if trial.figure is not None and trial.state == "complete"
    ]
    best_so_far: list[tuple[float, float]] = []
    for trial, figure in complete:
        best = min([figure, *(y for _, y in best_so_far[-1:])], key=metric.cost)
        best_so_far.append((float(trial.number), best))
    charts = [Chart([Line("best so far", best_so_far)], x_label="trial", y_label=metric.title)]
    for key, options in result.ranges.items():
        if "choices" in options:
            continue
        points = [(float(trial.values[key]), figure) for trial, figure in complete]
        charts.append(
            Chart(
                [Line(key, points, scatter=True)],
                x_label=key,
                y_label=metric.title,
                log_x=bool(options.get("log")),
            )
        )
    return charts
