"""Options and checks shared by `ganymede evaluate` and `ganymede compare`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from training.evaluation.evaluation import EvaluationTarget

DataOption = Annotated[
    str | None,
    typer.Option(
        help="The real images: a folder, an archive, WebDataset, Parquet, IDX, a Hugging Face data "
        "set (also hub:OWNER/NAME), or a known name.  [default: the model's training data]",
        show_default=False,
    ),
]
SplitOption = Annotated[
    str | None,
    typer.Option(
        help="The split to measure against.  [default: the held-out split if there is one, "
        "otherwise train]",
        show_default=False,
    ),
]
SamplesOption = Annotated[
    int | None,
    typer.Option(
        min=10,
        max=1_000_000,
        help="Images to generate and measure.  [default: 5000; 500 for image-to-image models]",
        show_default=False,
    ),
]
ReferenceOption = Annotated[
    int | None,
    typer.Option(
        min=10,
        help="The maximum number of real images to measure against.  [default: twice the samples, "
        "from 2000 to 10000]",
        show_default=False,
    ),
]
NetworkOption = Annotated[
    str,
    typer.Option(
        help="The feature network: efficientnet-lite0, an ONNX file, or a PyTorch file with the "
        "Inception weights of the FID."
    ),
]
ModelsOption = Annotated[Path, typer.Option(help="The model repository.", envvar="GANYMEDE_MODELS")]
SeedOption = Annotated[int, typer.Option(min=0, help="The seed of the first sample.")]
TruncationOption = Annotated[
    float | None,
    typer.Option(
        help="Truncation of the latents.  [default: the model's default]", show_default=False
    ),
]
CheckpointOption = Annotated[str, typer.Option(help="The checkpoint of a run: last or best.")]
ClassAccuracyOption = Annotated[
    bool,
    typer.Option(
        "--obedience/--no-obedience",
        help="Measure the class accuracy; trains a classifier, once for each data set.",
    ),
]
ReportOption = Annotated[
    Path | None,
    typer.Option(
        help="Write a report: a self-contained HTML file, and JSON with the same name.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


@contextmanager
def data_by_option() -> Iterator[None]:
    """Context manager that adds the hint `--data PATH` to errors about missing data sets."""
    from training.data.datasets import DatasetMissing

    try:
        yield
    except DatasetMissing as error:
        raise error.with_path_option("--data PATH") from error


def check_options(
    target: EvaluationTarget, truncation: float | None, split: str | None, seed: int
) -> None:
    """Raise QualityError if an option was given that does not apply to `target`."""
    from training.evaluation.errors import QualityError

    for name, value in (("truncation", truncation), ("split", split), ("seed", seed)):
        if value and name in target.unsupported_options:
            raise QualityError(f"--{name} does not apply to {target.title}")
