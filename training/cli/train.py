"""The command `ganymede train`.

PyTorch is imported inside the function, so that `ganymede --help` is fast and works without it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from training.recipe.schema import Recipe
    from training.run import Run


def train(
    recipe: Annotated[str, typer.Argument(help="The name of a shipped recipe, or a YAML file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Recipe values to override, as KEY=VALUE."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The run folder.  [default: runs/RECIPE]", show_default=False),
    ] = None,
    override: Annotated[
        bool,
        typer.Option(
            "--override",
            help="Continue a run with other values or other data, such as another learning rate. "
            "The change is recorded in the run and on the model card.",
        ),
    ] = False,
    dry: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Print shapes, parameters, memory, images/s after ten turns, and the time and "
            "disk space that the training will take. Writes nothing into the run folder.",
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the dry run as JSON, for scripts.")
    ] = False,
) -> None:
    """Train a GAN from a recipe. Run the same command again to resume.

    from=WEIGHTS fine-tunes: training starts from the weights of a run, of a model that was
    written with --trainable, or of a checkpoint of a run. Layers that fit by name and shape are
    taken, and the others are listed.

    Example: ganymede train dcgan-fashion train.images=500000 --out runs/first

    Fine-tuning: ganymede train stylegan2-flowers from=stylegan2-flowers data.path=photos/

    What it will take: ganymede train dcgan-fashion --dry-run

    Several GPUs: torchrun --nproc-per-node 4 --no-python ganymede train dcgan-fashion
    """
    from service.runtime.errors import UserError
    from service.runtime.formatting import duration
    from training.recipe.loading import load_recipe
    from training.run import Run
    from training.trainer import train as run_training

    folder = out or Path("runs") / Path(recipe).stem
    loaded = load_recipe(recipe, overrides or [])
    if as_json and not dry:
        raise UserError("--json is the output of --dry-run; a run writes log.jsonl")
    if dry:
        _dry_run(loaded, Run(folder), override=override, as_json=as_json)
        return
    result = run_training(loaded, Run(folder), override=override)
    if result is None:
        return
    typer.echo(
        f"trained on {result.images:,} {result.kind} in {duration(result.seconds)}; "
        f"next: ganymede export {folder}"
    )
    if result.best:
        images, value = result.best
        typer.echo(
            f"best evaluation at {images:,} {result.kind} ({value:.5g}); "
            "export that checkpoint with --checkpoint best"
        )


def _dry_run(recipe: Recipe, run: Run, *, override: bool, as_json: bool) -> None:
    from service.runtime.progress import stage_progress
    from training.dry_run.measurement import dry_run
    from training.dry_run.report import lines

    with stage_progress() as show:
        measured = dry_run(recipe, run, show, override=override)
    if measured is None:
        return
    if as_json:
        typer.echo(json.dumps(measured.document(), indent=2))
    else:
        typer.echo("\n".join(lines(measured)))
