"""The command `ganymede augment`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def augment(
    data: Annotated[
        str,
        typer.Argument(
            help="Labeled images: a folder with one folder per class, an archive, WebDataset, "
            "Parquet, IDX, a Hugging Face data set, or a known data set."
        ),
    ],
    model: Annotated[str, typer.Option(help="A class-conditional model: NAME or NAME@VERSION.")],
    per_class: Annotated[int, typer.Option(help="Synthetic images per class.")],
    out: Annotated[Path, typer.Option(help="The folder to write the new data set to.")],
    layout: Annotated[
        Literal["folder", "parquet"],
        typer.Option("--format", help="ImageFolder with metadata.jsonl, or Parquet."),
    ] = "folder",
    classes: Annotated[
        str | None,
        typer.Option(
            help="REAL=MODEL,… for classes whose names differ in the model.", show_default=False
        ),
    ] = None,
    side: Annotated[
        int | None,
        typer.Option(
            "--resize",
            min=1,
            max=4096,
            help="Crop and resize all images, real and synthetic, to squares of this side.",
            show_default=False,
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="The split of the real data.  [default: train, if there are splits]",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="The seed of the first synthetic image.")] = 0,
    truncation: Annotated[
        float | None, typer.Option(help="[default: the model's default]", show_default=False)
    ] = None,
    models: Annotated[
        Path, typer.Option(help="The model repository.", envvar="GANYMEDE_MODELS")
    ] = Path("models"),
) -> None:
    """Combine real and synthetic images into one labeled data set that marks the synthetic ones.

    Example: ganymede augment photos/ --model biggan-flowers --per-class 200 --out data/more
    """
    from service.runtime.models.catalog import find_model
    from service.runtime.onnx.execution_plans import Planner
    from service.runtime.onnx.sessions import pick_provider
    from service.runtime.progress import stage_progress
    from training.data.augmented_dataset import open_augmented_dataset, write_augmented_dataset
    from training.data.findings import ignored_lines

    loaded = find_model(models, model, Planner(pick_provider("auto")))
    dataset = open_augmented_dataset(
        data,
        loaded,
        per_class,
        split=split,
        first_seed=seed,
        truncation=truncation,
        side=side,
        pairs=classes,
    )
    for line in [*dataset.source.notes, *ignored_lines(dataset.source.ignored)]:
        typer.echo(line, err=True)
    with stage_progress() as show:
        counts = write_augmented_dataset(
            dataset, out, layout, lambda done: show("writing images", done, dataset.count)
        )
    typer.echo(f"{counts['real']:,} real and {counts['synthetic']:,} synthetic images in {out}")
