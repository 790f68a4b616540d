"""The command `ganymede data`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from training.cli.evaluation_options import JsonOption

if TYPE_CHECKING:
    from training.data.inspection.report import DataReport
    from training.evaluation.report.document import Section

# Classes that the table lists; further ones are counted.
_MAX_ROWS = 40


def data(
    path: Annotated[
        str,
        typer.Argument(
            help="Images: a folder, an archive, WebDataset shards, Parquet or IDX files, a Hugging "
            "Face data set (also hub:OWNER/NAME), or a known data set.",
        ),
    ],
    split: Annotated[
        str | None,
        typer.Option(help="Read only this split.  [default: all splits]", show_default=False),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help='Read only these classes: A,B,…; "" reads the images without classes.',
            show_default=False,
        ),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(
            help="The file of the contact sheet.  [default: in the cache folder]",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Report what is in a data set and what is wrong with it.

    The report lists the images by split and class, their sizes and formats, duplicates, corrupt and
    ignored files with the reason, and writes a contact sheet. The data are not changed.

    Example: ganymede data photos/
    """
    from service.runtime.files import replacing
    from training.data.datasets import KNOWN_DATASETS, locate_dataset
    from training.data.inspection.contact_sheet import contact_sheet, sheet_file
    from training.data.inspection.report import report_on
    from training.data.inspection.scan import scan
    from training.data.sources import DataError, open_splits
    from training.evaluation.report.terminal import print_line, print_section, progress

    location = locate_dataset(path) if path in KNOWN_DATASETS and not Path(path).exists() else path
    selected = None if classes is None else [name for name in classes.split(",") if name]
    sources = open_splits(location, split, selected)
    if split is not None and not sources[split].splits:
        raise DataError(f"--split {split}: {path} has no splits")
    sheet_path = sheet_file(sheet, location)
    with progress() as show:
        scanned = scan(sources, lambda done, total: show("reading images", done, total))
        report = report_on(path, sources, scanned)
        image = contact_sheet(scanned.images, sources, report.class_names)
    with replacing(sheet_path) as temporary:
        image.save(temporary, "PNG")
    if as_json:
        typer.echo(json.dumps({**report.to_json(), "sheet": str(sheet_path)}, indent=2))
        return
    print_section(_section(report))
    print_line(f"contact sheet: {sheet_path}")


def _section(report: DataReport) -> Section:
    from training.evaluation.report.document import Note, Section, Table

    parts: list[Note | Table] = []
    splits = list(report.counts)
    totals = [sum(counts.values()) for counts in report.counts.values()]
    if report.class_names or report.has_splits:
        names = list(dict.fromkeys(name for each in report.counts.values() for name in each))
        rows = [
            [name or "no class", *(f"{report.counts[split].get(name, 0):,}" for split in splits)]
            for name in names[:_MAX_ROWS]
        ]
        if len(names) > _MAX_ROWS:
            rows.append([f"… {len(names) - _MAX_ROWS:,} more", *("" for _ in splits)])
        rows.append(["all", *(f"{total:,}" for total in totals)])
        heads = splits if report.has_splits else ["images"]
        parts.append(Table(["class", *heads], rows))
    parts += [Note(f"{title}: {text}") for title, text in report.properties()]
    parts += [Note(line, is_warning=True) for line in report.warnings()]
    return Section(report.summary(), parts)
