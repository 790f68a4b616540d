"""The command `ganymede compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

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


@data_by_option()
def compare(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL|RUN|IMAGES...",
            help="Two or more, of the same image size.",
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
    report: ReportOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure several models against the same real images, and test which differ significantly.

    Image-to-image models are compared pair by pair, on the same targets.

    Example: ganymede compare gan-mnist wgan-gp-mnist --report comparison.html
    """
    from service.runtime.progress import stage_progress
    from training.evaluation.errors import QualityError
    from training.evaluation.evaluation import (
        EvaluationSettings,
        compare_results,
        evaluate_targets,
        open_target,
    )
    from training.evaluation.report.page import write_report
    from training.evaluation.report.terminal import print_line, print_section

    if len(targets) < 2:
        raise QualityError("compare needs two or more targets; use evaluate for a single target")
    opened = [
        open_target(
            target,
            models,
            data=data,
            truncation=truncation,
            seed_start=seed,
            checkpoint=checkpoint,
        )
        for target in targets
    ]
    for each in opened:
        check_options(each, truncation, split, seed)
    settings = EvaluationSettings(
        data, split, samples, reference, network, class_accuracy, report_images=report is not None
    )
    with stage_progress() as show:
        results = evaluate_targets(opened, settings, show)
    comparison = compare_results(results)
    if report is not None:
        write_report(report, results, comparison)
    if as_json:
        content = {
            "evaluations": [result.to_json() for result in results],
            "verdicts": [verdict.to_json() for verdict in comparison.verdicts],
        }
        typer.echo(json.dumps(content, indent=2))
        return
    print_section(comparison.summary)
    for verdict in comparison.verdicts:
        print_line(str(verdict))
    if report is not None:
        print_line(f"wrote {report}")
