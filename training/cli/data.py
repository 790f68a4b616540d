"""The command `ganymede data`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from training.cli.evaluation_options import JsonOption

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from training.data.inspection.report import DataReport
    from training.data.inspection.sounds import SoundReport
    from training.data.sources import ImageSource
    from training.data.sources.media import Media
    from training.evaluation.report.document import Section

# Classes that the table lists; further ones are counted.
_MAX_ROWS = 40
_CROPS: dict[str, Literal["center-crop", "center-crop-wide", "none"]] = {
    "center-crop": "center-crop",
    "center-crop-wide": "center-crop-wide",
    "none": "none",
    "center": "center-crop",
    "wide": "center-crop-wide",
}


def data(
    path: Annotated[
        str,
        typer.Argument(
            help="Images: a folder, an archive, WebDataset shards, Parquet or IDX files, a Hugging "
            "Face data set (also hub:OWNER/NAME), or a known data set. Or sounds: a folder or an "
            "archive.",
        ),
    ],
    split: Annotated[
        str | None,
        typer.Option(
            help="Read only this split; or with --out, split anew: train=0.9,val=0.1.  "
            "[default: all splits]",
            metavar="NAME|NAME=FRACTION,…",
            show_default=False,
        ),
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
    out: Annotated[
        Path | None,
        typer.Option(
            help="Prepare the images: write them to this new folder, or to this ZIP archive.",
            show_default=False,
        ),
    ] = None,
    resolution: Annotated[
        str | None,
        typer.Option(
            help="Crop and resize: 128, or 256x192.  [default: the size of each image]",
            metavar="N|WxH",
            show_default=False,
        ),
    ] = None,
    width: Annotated[
        int | None, typer.Option(help="Another way to give the size.", show_default=False)
    ] = None,
    height: Annotated[
        int | None, typer.Option(help="Another way to give the size.", show_default=False)
    ] = None,
    crop: Annotated[
        Literal["center-crop", "center-crop-wide", "none", "center", "wide"],
        typer.Option(
            help="center-crop: the largest area of the shape. center-crop-wide: the same, with "
            "black bars that make a square. none: the whole image, with its shape changed."
        ),
    ] = "center-crop",
    filter_: Annotated[
        Literal["lanczos", "bicubic", "bilinear", "box", "hamming", "nearest"],
        typer.Option("--filter", help="The resampling filter; nearest for pixel art."),
    ] = "lanczos",
    mode: Annotated[
        Literal["rgb", "gray", "rgba", "keep"],
        typer.Option(
            help="The colors. rgb and gray put transparent pixels on white; keep is each image's."
        ),
    ] = "rgb",
    deduplicate: Annotated[
        Literal["none", "exact", "near"],
        typer.Option(help="Leave out duplicates: keep the first image of each group."),
    ] = "none",
    maximum: Annotated[
        int | None,
        typer.Option(
            "--max", min=1, help="Keep a random selection of this size.", show_default=False
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="The seed of --split and --max.")] = 0,
    file_format: Annotated[
        Literal["png", "webp-lossless", "jpeg"],
        typer.Option("--format", help="The format of the files; jpeg is lossy (quality 95)."),
    ] = "png",
    archive: Annotated[
        Literal["zip"] | None,
        typer.Option(
            help="Write an archive.  [default: zip if OUT ends in .zip]", show_default=False
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Report what is in a data set and what is wrong with it, and prepare it for training.

    The report lists the images by split and class, their sizes and formats, duplicates, corrupt and
    ignored files with the reason, and writes a contact sheet. The data are not changed.

    With --out, the images are cropped, resized, converted, deduplicated and split, and written to a
    new data set with dataset.json, the labels as NVIDIA's dataset tool writes them.

    The report on sounds lists their lengths, rates and formats, and those that are silent, clipped,
    duplicates or damaged. Sounds are not prepared: data.sound in the recipe of a training fits
    them.

    Example: ganymede data photos/

    Example: ganymede data photos/ --out photos128.zip --resolution 128 --deduplicate near
    --split train=0.9,val=0.1
    """
    from service.runtime.files import replacing
    from service.runtime.progress import stage_progress
    from training.data.datasets import KNOWN_DATASETS, locate_dataset
    from training.data.inspection.contact_sheet import contact_sheet, sheet_file
    from training.data.inspection.report import report_on
    from training.data.inspection.scan import scan
    from training.data.preparation.options import (
        PreparationError,
        PreparationOptions,
        parse_fractions,
        parse_size,
    )
    from training.data.preparation.selection import select
    from training.data.preparation.writing import check_out, preparation_lines, write_prepared
    from training.data.sources import hold_sounds
    from training.data.sources.media import IMAGES
    from training.evaluation.report.terminal import print_line, print_section

    location = locate_dataset(path) if path in KNOWN_DATASETS and not Path(path).exists() else path
    fractions = parse_fractions(split) if split is not None and "=" in split else None
    split = None if fractions else split
    options = PreparationOptions(
        size=parse_size(resolution, width, height),
        crop=_CROPS[crop],
        filter=filter_,
        mode=mode,
        deduplicate=deduplicate,
        fractions=fractions,
        seed=seed,
        max_images=maximum,
        file_format=file_format,
    )
    if out is not None:
        out = out.expanduser()
        if archive and out.suffix.lower() != ".zip":
            out = out.with_name(f"{out.name}.zip")
        check_out(out, location)
    elif archive or options != PreparationOptions():
        raise PreparationError("options that change the images need --out, where they are written")
    selected = None if classes is None else [name for name in classes.split(",") if name]
    if hold_sounds(location):
        unsupported = {"--out": out, "--sheet": sheet}
        _report_sounds(path, location, split, selected, unsupported, as_json=as_json)
        return
    sources = _open(path, location, split, selected, IMAGES)
    sheet_path = sheet_file(sheet, location)
    record = None
    with stage_progress() as show:
        scanned = scan(sources, lambda done, total: show("reading images", done, total))
        report = report_on(path, sources, scanned)
        image = contact_sheet(report.scan.images, sources, report.class_names)
        with replacing(sheet_path) as temporary:
            image.save(temporary, "PNG")
        if out is not None:
            selection = select(report, options)
            record = write_prepared(
                out,
                report,
                selection,
                options,
                sources,
                lambda done, total: show("writing images", done, total),
            )
    if as_json:
        content = {**report.to_json(), "sheet": str(sheet_path), "preparation": record}
        typer.echo(json.dumps(content, indent=2))
        return
    print_section(_section(report))
    print_line(f"contact sheet: {sheet_path}")
    if record is not None:
        for line in preparation_lines(record):
            print_line(line)
        shares = ", ".join(
            f"{name} {sum(counts.values()):,}" for name, counts in record["splits"].items()
        )
        print_line(f"{out}: {record['images']:,} images ({shares})")


def _open(
    path: str, location: Path | str, split: str | None, classes: Sequence[str] | None, media: Media
) -> dict[str, ImageSource]:
    """Open all splits of the data, or one. Raises DataError."""
    from training.data.datasets import class_names
    from training.data.sources import DataError, open_splits

    sources = open_splits(location, split, classes, media)
    if split is not None and not sources[split].splits:
        raise DataError(f"--split {split}: {path} has no splits")
    for source in sources.values():
        source.class_names = class_names(path, source.class_names)
    return sources


def _report_sounds(
    path: str,
    location: Path | str,
    split: str | None,
    classes: Sequence[str] | None,
    unsupported: Mapping[str, Path | None],
    *,
    as_json: bool,
) -> None:
    """Print the report on sounds. Raises DataError, also for `unsupported` options."""
    from service.runtime.progress import stage_progress
    from training.data.inspection.sounds import report_on_sounds, scan_sounds
    from training.data.sources import DataError
    from training.data.sources.media import SOUNDS
    from training.evaluation.report.terminal import print_section

    for option, value in unsupported.items():
        if value is not None:
            raise DataError(f"{option} is for images, and {path} holds sounds")
    sources = _open(path, location, split, classes, SOUNDS)
    with stage_progress() as show:
        scan = scan_sounds(sources, lambda done, total: show("reading sounds", done, total))
    report = report_on_sounds(path, sources, scan)
    if as_json:
        typer.echo(json.dumps(report.to_json(), indent=2))
    else:
        print_section(_section(report, "sounds"))


def _section(report: DataReport | SoundReport, noun: str = "images") -> Section:
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
        heads = splits if report.has_splits else [noun]
        parts.append(Table(["class", *heads], rows))
    parts += [Note(f"{title}: {text}") for title, text in report.properties()]
    parts += [Note(line, is_warning=True) for line in report.warnings()]
    return Section(report.summary(), parts)
