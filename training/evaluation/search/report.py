"""What a search has found, as one page that needs no network."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from training.evaluation.during_training import called, cost, more_is_better
from training.evaluation.report.charts import Line, chart
from training.evaluation.report.page import rows, write_page

if TYPE_CHECKING:
    from training.evaluation.search.study import SearchResult, Trial


def write_search_report(path: Path, found: SearchResult) -> None:
    """Write the page, whole or not at all."""
    body = [
        f"<h1>Search of {escape(found.recipe)}</h1>",
        f"<p><strong>{escape(found.verdict)}</strong></p>",
        f'<p class="note">{len(found.trials)} trials by {escape(called(found.metric))}, '
        f"measured while they trained; {'more' if more_is_better(found.metric) else 'less'} is "
        "better. "
        "Trial 0 is the recipe itself.</p>",
    ]
    if (confirmed := found.confirmation) is not None:
        body += [
            "<h2>With other seeds</h2>",
            f'<p class="note">The {escape(called(confirmed.metric))} of the best checkpoint '
            f"against {escape(confirmed.reference)}, of samples that chose nothing.</p>",
            rows(
                ["seed", "the recipe", "the best trial"],
                (
                    [str(seed), f"{own:.5f}", f"{best:.5f}"]
                    for seed, own, best in zip(
                        confirmed.seeds, confirmed.recipe, confirmed.best, strict=True
                    )
                ),
            ),
        ]
    body += ["<h2>Trials</h2>", _table(found), '<div class="side">', *_charts(found), "</div>"]
    write_page(path, f"Search of {found.recipe}", body)


def _table(found: SearchResult) -> str:
    keys = list(found.ranges)

    def line(trial: Trial) -> list[str]:
        return [
            str(trial.number),
            *(_short(trial.values.get(key)) for key in keys),
            "" if trial.figure is None else f"{trial.figure:.5g}",
            f"{trial.images:,}",
            trial.state,
        ]

    ranked = sorted(
        found.trials,
        key=lambda trial: (
            trial.state != "complete",
            trial.figure is None,
            cost(found.metric, trial.figure or 0.0),
        ),
    )
    return rows(["trial", *keys, called(found.metric), "images", "ended"], map(line, ranked))


def _charts(found: SearchResult) -> Iterable[str]:
    whole = [(t, t.figure) for t in found.trials if t.figure is not None and t.state == "complete"]
    up = called(found.metric)
    so_far: list[tuple[float, float]] = []
    for trial, figure in whole:
        best = min([figure, *(y for _, y in so_far[-1:])], key=lambda y: cost(found.metric, y))
        so_far.append((float(trial.number), best))
    yield chart([Line("the best so far", so_far)], across="trial", up=up)
    for key, given in found.ranges.items():
        if "choices" in given:
            continue
        points = [(float(trial.values[key]), figure) for trial, figure in whole]
        yield chart(
            [Line(key, points, dots=True)], across=key, up=up, log_across=bool(given.get("log"))
        )


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
