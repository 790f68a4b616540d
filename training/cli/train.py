"""The command `ganymede train`.

PyTorch is imported inside the function, so that `ganymede --help` is fast and works without it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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
) -> None:
    """Train a GAN from a recipe. Run the same command again to resume.

    Example: ganymede train dcgan-fashion train.images=500000 --out runs/first

    Several GPUs: torchrun --nproc-per-node 4 --no-python ganymede train dcgan-fashion
    """
    from service.runtime.formatting import duration
    from training.recipe.loading import load_recipe
    from training.run import Run
    from training.trainer import train as run_training

    folder = out or Path("runs") / Path(recipe).stem
    loaded = load_recipe(recipe, overrides or [])
    result = run_training(loaded, Run(folder), override=override)
    if result is None:
        return
    typer.echo(
        f"trained on {result.images:,} images in {duration(result.seconds)}; "
        f"next: ganymede export {folder}"
    )
    if result.best:
        images, value = result.best
        typer.echo(
            f"best evaluation at {images:,} images ({value:.5g}); "
            "export that checkpoint with --checkpoint best"
        )
