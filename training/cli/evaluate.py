"""The command `ganymede evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from training.cli.evaluation_options import (
    CheckpointOption,
    ClassAccuracyOption,
    DataOption,
    JsonOption,
    ModelsOption,
    NetworkOption,
    ReferenceOption,
    ReportOption,
    SamplesOption,
    SeedOption,
    SplitOption,
    TruncationOption,
    check_options,
    data_by_option,
)

if TYPE_CHECKING:
    from training.evaluation.evaluation import EvaluationSettings, EvaluationTarget


@data_by_option()
def evaluate(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|RUN|IMAGES",
            help="A model by name or folder, the folder of a run, or a folder of images.",
        ),
    ],
    data: DataOption = None,
    split: SplitOption = None,
    samples: SamplesOption = None,
    reference: ReferenceOption = None,
    network: NetworkOption = "efficientnet-lite0",
    models: ModelsOption = Path("models"),
    seed: SeedOption = 0,
    truncation: TruncationOption = None,
    checkpoint: CheckpointOption = "last",
    class_accuracy: ClassAccuracyOption = True,
    pairs: Annotated[
        bool,
        typer.Option(
            "--pairs",
            help="Compare each image with the image of --data that has the same name: PSNR, SSIM.",
        ),
    ] = False,
    rank: Annotated[
        bool,
        typer.Option(
            "--rank",
            help="Measure the images that the model's discriminator selects instead: KID, "
            "precision and recall for several shares, from 1000 samples of each by default.",
        ),
    ] = False,
    record: Annotated[
        bool, typer.Option("--record", help="Write the metrics to the model's manifest and card.")
    ] = False,
    report: ReportOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure the quality of a model's images against real images.

    The images are generated with the graphs that are served. Every metric is shown with its value
    for real images and the name of its feature network.

    Example: ganymede evaluate dcgan-fashion --samples 5000 --report quality.html
    """
    from service.runtime.progress import stage_progress
    from training.evaluation.errors import QualityError
    from training.evaluation.evaluation import EvaluationSettings, evaluate_targets, open_target
    from training.evaluation.report.page import write_report
    from training.evaluation.report.recording import record_figures
    from training.evaluation.report.terminal import print_line, print_section

    if rank and (pairs or report is not None):
        raise QualityError("--rank cannot be combined with --pairs or --report")
    if pairs:
        _evaluate_pairs(target, data, network, as_json=as_json)
        return
    opened = open_target(
        target,
        models,
        data=data,
        truncation=truncation,
        seed_start=seed,
        checkpoint=checkpoint,
    )
    check_options(opened, truncation, split, seed)
    folder = _recordable_folder(opened) if record else None
    settings = EvaluationSettings(
        data, split, samples, reference, network, class_accuracy, report_images=report is not None
    )
    if rank:
        _evaluate_selection(opened, settings, folder, as_json=as_json)
        return
    with stage_progress() as show:
        (result,) = evaluate_targets([opened], settings, show)
    if folder is not None:
        record_figures(folder, result.digest, result.figures)
    if report is not None:
        write_report(report, [result])
    if as_json:
        typer.echo(json.dumps(result.to_json(), indent=2))
        return
    print_section(result.summary())
    if report is not None:
        print_line(f"wrote {report}")


def _recordable_folder(target: EvaluationTarget) -> Path:
    """Return the model folder that `--record` writes to.

    Call it before the evaluation, which takes time. Raises QualityError for other targets.
    """
    from training.evaluation.errors import QualityError

    if target.model is None or not target.model.folder.is_dir():
        raise QualityError(f"--record: {target.title} is not a model in a model repository")
    return target.model.folder


def _evaluate_selection(
    target: EvaluationTarget, settings: EvaluationSettings, folder: Path | None, *, as_json: bool
) -> None:
    """Measure the images that the discriminator selects, and print and record the figures.

    Raises QualityError for a target without a discriminator.
    """
    from service.runtime.models.manifest import Manifest
    from service.runtime.progress import stage_progress
    from training.evaluation.errors import QualityError
    from training.evaluation.noise.selection import measure_selection
    from training.evaluation.noise.targets import NoiseTarget
    from training.evaluation.report.terminal import print_section
    from training.export.additions import update_model_folder

    if not isinstance(target, NoiseTarget):
        raise QualityError(f"--rank: {target.title} does not generate images from noise")
    with stage_progress() as show:
        result = measure_selection(target, settings, show)

    def record(_: Path, manifest: Manifest) -> Manifest:
        if manifest.digest != result.digest or manifest.discriminator is None:
            raise QualityError(f"{folder} does not contain the model that was measured")
        measured = {"calibration": result.calibration, "figures": result.figures}
        discriminator = manifest.discriminator.model_copy(update=measured)
        return manifest.model_copy(update={"discriminator": discriminator})

    if folder is not None:
        update_model_folder(folder, record)
    if as_json:
        typer.echo(json.dumps(result.to_json(), indent=2))
        return
    print_section(result.summary())


def _evaluate_pairs(target: str, data: str | None, network: str, *, as_json: bool) -> None:
    """Compare images in two folders, matched by file name, and print the metrics.

    Raises QualityError if `data` is None.
    """
    from service.runtime.progress import stage_progress
    from training.evaluation.errors import QualityError
    from training.evaluation.features.networks import open_network
    from training.evaluation.metrics import get_metric, pair_metric_names
    from training.evaluation.metrics.pairs import compare_pairs, open_pairs
    from training.evaluation.report.document import Note, Section, Table
    from training.evaluation.report.formatting import metric_title
    from training.evaluation.report.terminal import print_section

    if data is None:
        raise QualityError("--pairs needs --data, the images to compare with")
    generated, targets, names = open_pairs(Path(target), Path(data))
    features = open_network(network)
    with stage_progress() as show:
        by_name = compare_pairs(
            generated, targets, features, lambda done, total: show("comparing pairs", done, total)
        )
    metrics = [get_metric(name) for name in pair_metric_names(per_pair=True)]
    values = {metric.result_key(features): by_name[metric.name] for metric in metrics}
    if as_json:
        content = {
            "pairs": len(names),
            "feature_network": features.title,
            "resizing": features.resizing,
            "mean": {key: float(each.mean()) for key, each in values.items()},
            "each": [
                {"name": name, **{key: float(each[i]) for key, each in values.items()}}
                for i, name in enumerate(names)
            ],
        }
        typer.echo(json.dumps(content, indent=2))
        return
    rows = []
    for metric, (key, each) in zip(metrics, values.items(), strict=True):
        worst = each.min() if metric.higher_is_better else each.max()
        rows.append(
            [metric_title(key), metric.arrow, metric.format(each.mean()), metric.format(worst)]
        )
    note = Note(f"features: {features.title}; resizing: {features.resizing}")
    table = Table(["metric", "", "mean", "worst"], rows)
    print_section(Section(f"{len(names):,} pairs", [note, table]))
