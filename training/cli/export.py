"""The command `ganymede export`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from service.runtime.models.model import Model
    from service.runtime.models.parts.measurements import Quality
    from training.evaluation.evaluation import EvaluationTarget
    from training.run import Run


def export(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN|MODEL",
            help="A run folder of `ganymede train`. With --discriminator also a model, by name or "
            "folder, that has trainable weights.",
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(help="The model's name.  [default: the run's name]", show_default=False),
    ] = None,
    models: Annotated[
        Path, typer.Option(help="The model repository.", envvar="GANYMEDE_MODELS")
    ] = Path("models"),
    version: Annotated[
        str | None,
        typer.Option(help="The version.  [default: the next free number]", show_default=False),
    ] = None,
    checkpoint: Annotated[
        str,
        typer.Option(help="The checkpoint: last, or best if the recipe has a section evaluate."),
    ] = "last",
    trainable: Annotated[
        bool,
        typer.Option(
            "--trainable",
            help="Keep the weights of both players beside the graphs, so that ganymede train "
            "RECIPE from=MODEL can continue from the model.",
        ),
    ] = False,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure",
            help="Measure the quality for the model card: class accuracy, the distance from the "
            "expected images for image-to-image models, or the figures of ganymede evaluate for "
            "text-to-image models and for models of text and sounds. Needs the run's data, and "
            "takes a minute or two on a CPU for small images.",
        ),
    ] = False,
    discriminator: Annotated[
        bool,
        typer.Option(
            "--discriminator",
            help="Export the discriminator, too: requests can then keep the best images by its "
            "score, with `rank`. For a model, add it to the model's folder.",
        ),
    ] = False,
) -> None:
    """Export a run's generator as a model folder that `ganymede serve` can serve.

    The graphs are compared with PyTorch at several batch sizes. Nothing is written if they differ.

    Example: ganymede export runs/first --name my-garments
    """
    from training.export.errors import ExportError
    from training.export.exporter import export_run
    from training.run import Run

    opened = Run(Path(run))
    if discriminator and not opened.recipe_path.is_file():
        if trainable or measure or name is not None or version is not None or checkpoint != "last":
            raise ExportError(
                f"{run} is not a run: --name, --version, --checkpoint, --trainable and --measure "
                "are for runs"
            )
        _add_discriminator(run, models)
        return
    opened = opened.at(checkpoint)
    measured = _quality_measurement(opened) if measure else None
    folder = export_run(
        opened,
        name or opened.name,
        models,
        version,
        measured,
        discriminator=discriminator,
        trainable=trainable,
    )
    typer.echo(f"wrote {folder}; next: ganymede serve --models {models}")


def _add_discriminator(target: str, models: Path) -> None:
    """Add the discriminator to the folder of a model. Raises ExportError and AdditionError."""
    from training.evaluation.models import model_folder
    from training.export.additions import update_model_folder
    from training.export.additions.discriminator import discriminator_of_folder
    from training.export.errors import ExportError

    folder = model_folder(target, models)
    if folder is None:
        raise ExportError(f"{target} is neither a run nor a model")
    update_model_folder(folder, discriminator_of_folder(folder))
    typer.echo(
        f"wrote the discriminator into {folder}; next: ganymede evaluate {target} --rank --record"
    )


def _quality_measurement(run: Run) -> Callable[[Model], tuple[Quality, ...]]:
    """Return a function that measures a model on the data of `run`, and prints the results.

    Raises QualityError if the run has no classes and is not an image-to-image run.
    """
    from service.runtime.progress import stage_progress
    from training.evaluation.errors import QualityError
    from training.evaluation.features.networks import open_network
    from training.evaluation.image_to_image.evaluation import evaluate_figures
    from training.evaluation.metrics.class_accuracy import measure_class_accuracy
    from training.evaluation.report.formatting import format_value
    from training.evaluation.sound.targets import target_of_run as sound_target
    from training.evaluation.text.targets import target_of_run as text_target
    from training.evaluation.text_to_image.targets import target_of_run as text_to_image_target

    recipe = run.recipe()
    if recipe.game.served_task == "text":
        return _measurement_of_target(lambda model: text_target(run, model))
    if recipe.game.served_task == "text-to-image":
        return _measurement_of_target(lambda model: text_to_image_target(run, model))
    if recipe.game.takes_sounds:
        return _measurement_of_target(lambda model: sound_target(run, model))
    is_image_to_image = recipe.image_input is not None
    if not recipe.classes and not is_image_to_image:
        # Fail before the export, because it takes long.
        raise QualityError(
            "--measure measures class accuracy, and the run has no classes; "
            "for other metrics use ganymede evaluate"
        )

    def measure(model: Model) -> tuple[Quality, ...]:
        with stage_progress() as show:
            if is_image_to_image:
                network = open_network("efficientnet-lite0")
                figures = evaluate_figures(recipe, model, network, show)
                for figure in figures:
                    typer.echo(
                        f"{figure.metric} {format_value(figure.metric, figure.value)}; "
                        f"{figure.baseline_name} {format_value(figure.metric, figure.baseline)}"
                    )
                return figures
            measured = measure_class_accuracy(model, recipe.data, progress=show)
        worst = min(measured.per_class, key=measured.per_class.__getitem__)
        typer.echo(
            f"class accuracy {measured.accuracy:.1%}, lowest for {worst}: "
            f"{measured.per_class[worst]:.1%}"
        )
        return (measured.quality,)

    return measure


def _measurement_of_target(
    open_target: Callable[[Model], EvaluationTarget],
) -> Callable[[Model], tuple[Quality, ...]]:
    """Return a function that evaluates a model by the target of its run."""
    from service.runtime.progress import stage_progress
    from training.evaluation.evaluation import EvaluationSettings, evaluate_targets
    from training.evaluation.report.terminal import print_section

    def measure(model: Model) -> tuple[Quality, ...]:
        with stage_progress() as show:
            (result,) = evaluate_targets([open_target(model)], EvaluationSettings(), show)
        print_section(result.summary())
        return result.figures

    return measure
