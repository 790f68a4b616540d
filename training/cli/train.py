"""Training's verbs of the `ganymede` command.

PyTorch is imported inside each verb, so that `ganymede --help` answers at once and works without.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from rich.progress import TaskID

    from service.runtime.models.manifest import Quality
    from service.runtime.models.model import Model
    from training.run import Run


def train(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe by name, or a YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Laid over the recipe.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The run folder.  [default: runs/RECIPE]", show_default=False),
    ] = None,
) -> None:
    """Train a GAN by a recipe; the same command again goes on where it was stopped.

    Example: ganymede train dcgan-fashion train.images=500000 --out runs/first

    Several GPUs: torchrun --nproc-per-node 4 --no-python ganymede train dcgan-fashion
    """
    from training.recipe.loading import load_recipe
    from training.run import Run
    from training.trainer import train as run_training

    folder = out or Path("runs") / Path(recipe).stem
    result = run_training(load_recipe(recipe, overrides or []), Run(folder))
    if result is None:
        return
    typer.echo(
        f"trained on {result.images:,} images in {result.seconds / 60:.1f} minutes; "
        f"next: ganymede export {folder}"
    )
    if result.best:
        images, value = result.best
        typer.echo(
            f"the best of its evaluations was at {images:,} images ({value:.5g}): "
            "--checkpoint best takes that one"
        )


def export(
    run: Annotated[Path, typer.Argument(help="A run folder of `ganymede train`.")],
    name: Annotated[
        str | None, typer.Option(help="The model's name.  [default: the run's]", show_default=False)
    ] = None,
    models: Annotated[
        Path, typer.Option(help="The model repository.", envvar="GANYMEDE_MODELS")
    ] = Path("models"),
    version: Annotated[
        str | None,
        typer.Option(help="The version.  [default: the next free number]", show_default=False),
    ] = None,
    checkpoint: Annotated[
        str, typer.Option(help="last, or best where the recipe has a section evaluate.")
    ] = "last",
    measure: Annotated[
        bool,
        typer.Option(
            "--measure",
            help="Measure it for the model card: how well classes are obeyed, or, of pictures "
            "made of pictures, how near they are to the true ones. A minute or two on a CPU for "
            "small pictures. Needs the run's data.",
        ),
    ] = False,
) -> None:
    """Write a run's generator as a model folder that `ganymede serve` takes.

    The graph is checked against PyTorch at several batch sizes; when it differs, nothing is
    written.

    Example: ganymede export runs/first --name my-garments
    """
    from training.export.exporter import export_run
    from training.run import Run

    opened = Run(run).at(checkpoint)
    measured = _measuring(opened) if measure else None
    folder = export_run(opened, name or opened.name, models, version, measured)
    typer.echo(f"wrote {folder}; next: ganymede serve --models {models}")


def _measuring(run: Run) -> Callable[[Model], tuple[Quality, ...]]:
    """Return what measures a model against the data of `run`, and shows how far it is."""
    from rich.progress import Progress

    from training.evaluation.errors import QualityError
    from training.evaluation.features.networks import open_network
    from training.evaluation.image_to_image.evaluation import evaluate_figures
    from training.evaluation.metrics.class_accuracy import measure_class_accuracy
    from training.evaluation.report.formatting import format_value

    recipe = run.recipe()
    translates = recipe.image_input is not None
    if not recipe.classes and not translates:
        # Said before the work of exporting, not after it.
        raise QualityError(
            "--measure: class obedience is measured here, and the run has no classes; for all "
            "else there is ganymede evaluate"
        )

    def measure(model: Model) -> tuple[Quality, ...]:
        with Progress(transient=True) as bar:
            tasks: dict[str, TaskID] = {}

            def show(stage: str, done: int, total: int) -> None:
                if stage not in tasks:
                    tasks[stage] = bar.add_task(stage)
                bar.update(tasks[stage], completed=done, total=total)

            if translates:
                network = open_network("efficientnet-lite0")
                figures = evaluate_figures(recipe, model, network, show)
                for figure in figures:
                    typer.echo(
                        f"{figure.metric} {format_value(figure.metric, figure.value)}; "
                        f"{figure.baseline_name} {format_value(figure.metric, figure.baseline)}"
                    )
                return figures
            obedience = measure_class_accuracy(model, recipe.data, progress=show)
        worst = min(obedience.per_class, key=obedience.per_class.__getitem__)
        typer.echo(
            f"class obedience {obedience.accuracy:.1%}, least for {worst}: "
            f"{obedience.per_class[worst]:.1%}"
        )
        return (obedience.quality,)

    return measure


def augment(
    data: Annotated[
        str,
        typer.Argument(help="Labelled pictures: a folder for each class, a ZIP, or a known name."),
    ],
    model: Annotated[str, typer.Option(help="NAME or NAME@VERSION: a class-conditional model.")],
    per_class: Annotated[int, typer.Option(help="Synthetic pictures for each class.")],
    out: Annotated[Path, typer.Option(help="The folder of the new data set.")],
    layout: Annotated[
        Literal["folder", "parquet"],
        typer.Option("--format", help="ImageFolder with metadata.jsonl, or Parquet."),
    ] = "folder",
    classes: Annotated[
        str | None,
        typer.Option(
            help="REAL=MODEL,… where the model calls classes otherwise.", show_default=False
        ),
    ] = None,
    side: Annotated[
        int | None,
        typer.Option(
            "--resize",
            min=1,
            max=4096,
            help="Cut every picture, real or not, to a square of so many pixels.",
            show_default=False,
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Of the real data.")] = "train",
    seed: Annotated[int, typer.Option(help="The first seed.")] = 0,
    truncation: Annotated[
        float | None, typer.Option(help="The model's own when not said.", show_default=False)
    ] = None,
    models: Annotated[
        Path, typer.Option(help="The model repository.", envvar="GANYMEDE_MODELS")
    ] = Path("models"),
) -> None:
    """Join real and synthetic pictures in one labelled data set that says which are which.

    Example: ganymede augment photos/ --model biggan-flowers --per-class 200 --out data/more
    """
    from rich.console import Console
    from rich.progress import Progress

    from service.runtime.models.catalog import find_model
    from service.runtime.onnx.execution_plans import Planner
    from service.runtime.onnx.sessions import pick_provider
    from training.data.augmented_dataset import open_augmented_dataset, write_augmented_dataset

    loaded = find_model(models, model, Planner(pick_provider("auto")))
    wish = open_augmented_dataset(
        data,
        loaded,
        per_class,
        split=split,
        first_seed=seed,
        truncation=truncation,
        side=side,
        pairs=classes,
    )
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("pictures", total=wish.count)
        counts = write_augmented_dataset(wish, out, layout, lambda files: bar.advance(task, files))
    typer.echo(f"{counts['real']:,} real and {counts['synthetic']:,} synthetic pictures in {out}")
