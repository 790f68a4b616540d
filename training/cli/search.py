"""The command `ganymede search`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from training.cli.evaluation_options import JsonOption


def search(
    recipe: Annotated[str, typer.Argument(help="The name of a shipped recipe, or a YAML file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Recipe values to override, as KEY=VALUE."),
    ] = None,
    trials: Annotated[
        int, typer.Option(min=1, help="The total number of trials, including earlier ones.")
    ] = 20,
    confirm: Annotated[
        int,
        typer.Option(
            min=0,
            help="The number of other seeds to train the best trial and the recipe with.",
        ),
    ] = 2,
    seed: Annotated[int, typer.Option(min=0, help="The seed for the values of the trials.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The folder of the search.  [default: runs/search-RECIPE]", show_default=False
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Search for better values in the ranges that a recipe declares.

    Run the same command again to continue an interrupted search. A trial is stopped early if most
    other trials were better at the same point. Writes search.html and search.json.

    Example: ganymede search dcgan-fashion train.images=100000 --trials 12 --out runs/search
    """
    from training.evaluation.search.study import search as run_search

    folder = out or Path("runs") / f"search-{Path(recipe).stem}"
    result = run_search(
        recipe,
        overrides or [],
        folder,
        trials=trials,
        confirm=confirm,
        seed=seed,
        report=lambda line: typer.echo(line, err=True),
    )
    if as_json:
        typer.echo((folder / "search.json").read_text(), nl=False)
        return
    if result.best:
        typer.echo(" ".join(f"{key}={value}" for key, value in result.best.values.items()))
    typer.echo(f"{result.verdict}; see {folder / 'search.html'}")
