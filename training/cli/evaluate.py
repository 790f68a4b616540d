"""The verbs of the `ganymede` command that measure quality.

What is slow to import waits for the verb that needs it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from training.evaluation.report.terminal import console, progress

if TYPE_CHECKING:
    from training.data.images import DataOptions
    from training.evaluation.results import Evaluation, Shown
    from training.evaluation.targets import EvaluationTarget

DataOption = Annotated[
    str | None,
    typer.Option(
        help="The real pictures: a folder, a ZIP archive, MNIST's format, hub:owner/name, or a "
        "known name.  [default: what the model was trained on]",
        show_default=False,
    ),
]
SplitOption = Annotated[
    str | None,
    typer.Option(
        help="The split to measure against.  [default: the held-out one, else train]",
        show_default=False,
    ),
]
SamplesOption = Annotated[
    int | None,
    typer.Option(
        min=10,
        max=1_000_000,
        help="Pictures to make and measure.  [default: 5000; of models from pictures to pictures "
        "500]",
        show_default=False,
    ),
]
ReferenceOption = Annotated[
    int, typer.Option(min=10, help="Real pictures to measure against, at most.")
]
NetworkOption = Annotated[
    str,
    typer.Option(
        help="What pictures are compared by: efficientnet-lite0, an ONNX file, or a PyTorch file "
        "of the FID's Inception weights."
    ),
]
ModelsOption = Annotated[Path, typer.Option(help="The model repository.", envvar="GANYMEDE_MODELS")]
SeedOption = Annotated[int, typer.Option(min=0, help="The first sample's seed.")]
TruncationOption = Annotated[
    float | None,
    typer.Option(help="Draw towards the average.  [default: the model's]", show_default=False),
]
CheckpointOption = Annotated[str, typer.Option(help="Of a run: last or best.")]
ObedienceOption = Annotated[
    bool,
    typer.Option(
        "--obedience/--no-obedience",
        help="How often classes are obeyed; teaches a classifier once for each data set.",
    ),
]
ReportOption = Annotated[
    Path | None,
    typer.Option(
        help="Write a report: one HTML file that needs no network, and JSON beside it.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="For scripts.")]


@contextmanager
def _data_by_option() -> Iterator[None]:
    """Let what is said of a missing data set name the option that gives it."""
    from training.data.datasets import DatasetMissing

    try:
        yield
    except DatasetMissing as error:
        raise error.with_path_option("--data PATH") from error


@_data_by_option()
def evaluate(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|RUN|PICTURES",
            help="A model by name or folder, a run's folder, or a folder of pictures.",
        ),
    ],
    data: DataOption = None,
    split: SplitOption = None,
    samples: SamplesOption = None,
    reference: ReferenceOption = 10_000,
    network: NetworkOption = "efficientnet-lite0",
    models: ModelsOption = Path("models"),
    seed: SeedOption = 0,
    truncation: TruncationOption = None,
    checkpoint: CheckpointOption = "last",
    obedience: ObedienceOption = True,
    pairs: Annotated[
        bool,
        typer.Option(
            "--pairs",
            help="Compare pictures with those of --data that have the same name: PSNR, SSIM.",
        ),
    ] = False,
    record: Annotated[
        bool, typer.Option("--record", help="Write the figures into the model's manifest and card.")
    ] = False,
    report: ReportOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how near a model's pictures come to real ones, through the runtime that serves them.

    Every figure names what it was measured by, and stands beside that of real pictures.

    Example: ganymede evaluate dcgan-fashion --samples 5000 --report quality.html
    """
    from training.evaluation.image_to_image.targets import open_image_to_image_target
    from training.evaluation.report.tables import basis, class_table, table

    if pairs:
        _evaluate_pairs(subject, data, network, as_json=as_json)
        return
    translator = open_image_to_image_target(subject, models, data=data, checkpoint=checkpoint)
    if translator is not None:
        _assert_of_pictures(translator.title, truncation, split, seed)
        from training.evaluation.image_to_image.commands import evaluate_translation

        evaluate_translation(
            translator,
            network,
            samples=samples,
            record=record,
            report=report,
            as_json=as_json,
        )
        return
    (found,) = _measured(
        [subject],
        data=data,
        split=split,
        samples=samples,
        reference=reference,
        network=network,
        models=models,
        seed=seed,
        truncation=truncation,
        checkpoint=checkpoint,
        obedience=obedience,
        record=record,
    )
    opened, evaluation, _ = found
    if record:
        from training.evaluation.report.recording import record as write

        assert opened.model is not None  # noqa: S101 - looked at before the work
        write(opened.model.folder, evaluation)
    if report is not None:
        _write_report(report, [found])
    if as_json:
        typer.echo(evaluation.model_dump_json(indent=2, exclude_none=True))
        return
    screen = console()
    screen.print(evaluation.subject, style="bold", markup=False)
    for line in basis(evaluation):
        screen.print(line, highlight=False, markup=False, soft_wrap=True)
    screen.print(table(evaluation))
    if evaluation.per_class:
        screen.print(class_table(evaluation))
    if report is not None:
        screen.print(f"wrote {report}", markup=False, soft_wrap=True)


@_data_by_option()
def compare(
    subjects: Annotated[
        list[str],
        typer.Argument(metavar="MODEL|RUN|PICTURES...", help="Two or more, of one picture size."),
    ],
    data: DataOption = None,
    split: SplitOption = None,
    samples: SamplesOption = None,
    reference: ReferenceOption = 10_000,
    network: NetworkOption = "efficientnet-lite0",
    models: ModelsOption = Path("models"),
    seed: SeedOption = 0,
    truncation: TruncationOption = None,
    checkpoint: CheckpointOption = "last",
    obedience: ObedienceOption = True,
    report: ReportOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure several models against the same real pictures, and say which differ for certain.

    Models that make pictures of pictures are compared pair by pair, by the same true pictures.

    Example: ganymede compare gan-mnist wgan-gp-mnist --report comparison.html
    """
    from training.evaluation.errors import QualityError
    from training.evaluation.image_to_image.targets import open_image_to_image_target
    from training.evaluation.report.tables import common_basis, comparison_table, verdicts

    if len(subjects) < 2:
        raise QualityError("compare needs two or more; for one there is evaluate")
    opened = [
        open_image_to_image_target(s, models, data=data, checkpoint=checkpoint) for s in subjects
    ]
    translators = [each for each in opened if each is not None]
    if translators:
        from training.evaluation.image_to_image.commands import compare_translations

        if len(translators) < len(subjects):
            raise QualityError("some make pictures of pictures, and the others of noise")
        _assert_of_pictures(translators[0].title, truncation, split, seed)
        compare_translations(translators, network, samples=samples, report=report, as_json=as_json)
        return
    found = _measured(
        subjects,
        data=data,
        split=split,
        samples=samples,
        reference=reference,
        network=network,
        models=models,
        seed=seed,
        truncation=truncation,
        checkpoint=checkpoint,
        obedience=obedience,
    )
    evaluations = [evaluation for _, evaluation, _ in found]
    said = verdicts(evaluations)
    if report is not None:
        _write_report(report, found)
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "evaluations": [
                        json.loads(each.model_dump_json(exclude_none=True)) for each in evaluations
                    ],
                    "verdicts": [
                        {"better": v.better, "worse": v.worse, "sure": v.sure} for v in said
                    ],
                },
                indent=2,
            )
        )
        return
    screen = console()
    for line in common_basis(evaluations):
        screen.print(line, highlight=False, markup=False, soft_wrap=True)
    screen.print(comparison_table(evaluations))
    for verdict in said:
        screen.print(str(verdict), markup=False, soft_wrap=True)
    if report is not None:
        screen.print(f"wrote {report}", markup=False, soft_wrap=True)


def search(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe by name, or a YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Laid over the recipe.")
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="Trials in all, earlier ones included.")] = 20,
    confirm: Annotated[
        int, typer.Option(min=0, help="Train the best trial and the recipe with so many seeds.")
    ] = 2,
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn for the trials.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The search's folder.  [default: runs/search-RECIPE]", show_default=False
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Look for better values in the ranges that a recipe declares; the same command goes on.

    Trials that do worse than others did are ended early. Writes search.html and search.json.

    Example: ganymede search dcgan-fashion train.images=100000 --trials 12 --out runs/search
    """
    from training.evaluation.search.study import search as look

    folder = out or Path("runs") / f"search-{Path(recipe).stem}"
    found = look(
        recipe,
        overrides or [],
        folder,
        trials=trials,
        confirm=confirm,
        seed=seed,
        say=lambda line: typer.echo(line, err=True),
    )
    if as_json:
        typer.echo((folder / "search.json").read_text(), nl=False)
        return
    if found.best:
        typer.echo(" ".join(f"{key}={value}" for key, value in found.best.values.items()))
    typer.echo(f"{found.verdict}; see {folder / 'search.html'}")


def _measured(
    wanted: list[str],
    *,
    data: str | None,
    split: str | None,
    samples: int | None,
    reference: int,
    network: str,
    models: Path,
    seed: int,
    truncation: float | None,
    checkpoint: str,
    obedience: bool,
    record: bool = False,
) -> list[tuple[EvaluationTarget, Evaluation, Shown]]:
    """Measure each of `wanted` against the same real pictures, and show how far it is."""
    from training.evaluation.errors import QualityError
    from training.evaluation.evaluation import EvaluationOptions
    from training.evaluation.evaluation import evaluate as measure
    from training.evaluation.features.networks import open_network
    from training.evaluation.features.references import open_reference
    from training.evaluation.targets import open_target

    opened = [
        open_target(each, models, truncation=truncation, seed_start=seed, checkpoint=checkpoint)
        for each in wanted
    ]
    sizes = {(each.image.height, each.image.channels) for each in opened}
    if len(sizes) > 1:
        raise QualityError("pictures of different sizes do not compare")
    if record:
        # Before the work, not after it.
        _assert_recordable(opened[0])
    real = _data_of(opened, data)
    options = EvaluationOptions(
        samples=samples or EvaluationOptions.samples,
        reference_samples=reference,
        obedience=obedience,
    )
    with progress() as show:
        chosen = open_network(network)
        against = open_reference(real, split, show)
        return [(each, *measure(each, against, chosen, options, show)) for each in opened]


def _assert_of_pictures(title: str, truncation: float | None, split: str | None, seed: int) -> None:
    """Refuse what means nothing where pictures are made of pictures."""
    from training.evaluation.errors import QualityError

    for name, given in (("--truncation", truncation), ("--split", split), ("--seed", seed)):
        if given:
            raise QualityError(f"{name}: {title} makes pictures of pictures")


def _assert_recordable(subject: EvaluationTarget) -> None:
    from training.evaluation.errors import QualityError

    if subject.model is None or not subject.model.folder.is_dir():
        raise QualityError(f"--record: {subject.title} is no model of a repository")


def _data_of(subjects: list[EvaluationTarget], data: str | None) -> DataOptions:
    """Return the pictures to measure against: those asked for, else those trained on."""
    from training.data.datasets import KNOWN_DATASETS
    from training.data.images import DataOptions
    from training.evaluation.errors import QualityError

    image, own = subjects[0].image, subjects[0].data
    if data is None:
        if own is None:
            raise QualityError(
                f"what {subjects[0].title} was trained on is not known here: give --data"
            )
        return own
    flip = own is not None and own.flip
    named = {"name": data} if data in KNOWN_DATASETS and not Path(data).exists() else {"path": data}
    return DataOptions(
        **named,
        resolution=image.height,
        channels=image.channels,
        flip=flip,
    )


def _evaluate_pairs(subject: str, data: str | None, network: str, *, as_json: bool) -> None:
    from rich.table import Table

    from training.evaluation.errors import QualityError
    from training.evaluation.features.networks import open_network
    from training.evaluation.metrics.paired import compare_pairs, open_pairs
    from training.evaluation.report.figure_text import direction, said

    if data is None:
        raise QualityError("--pairs compares with pictures of the same name: give --data")
    made, wanted, names = open_pairs(Path(subject), Path(data))
    chosen = open_network(network)
    with progress() as show:
        found = compare_pairs(
            made, wanted, chosen, lambda done, total: show("looking at pairs", done, total)
        )
    figures = {
        "PSNR": found.psnr,
        "SSIM": found.ssim,
        f"feature distance-{chosen.name}": found.feature_distance,
    }
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "pairs": len(names),
                    "feature_network": chosen.title,
                    "resizing": chosen.resizing,
                    "mean": {name: float(values.mean()) for name, values in figures.items()},
                    "each": [
                        {"name": name, **{m: float(v[i]) for m, v in figures.items()}}
                        for i, name in enumerate(names)
                    ],
                },
                indent=2,
            )
        )
        return
    screen = console()
    screen.print(f"{len(names):,} pairs, by {chosen.title}, resized: {chosen.resizing}")
    shown = Table("figure", "", "mean", "worst", box=None)
    for name, values in figures.items():
        worst = values.min() if direction(name) == "↑" else values.max()
        shown.add_row(name, direction(name), said(name, values.mean()), said(name, worst))
    screen.print(shown)


def _write_report(path: Path, found: list[tuple[EvaluationTarget, Evaluation, Shown]]) -> None:
    from training.evaluation.report.page import write_report

    write_report(path, [(evaluation, shown) for _, evaluation, shown in found])
