"""The command `ganymede timelapse`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def timelapse(
    run: Annotated[Path, typer.Argument(help="A run folder of `ganymede train`.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The file, of the format of its suffix: .mp4 or .webm "
            "(pip install 'ganymede[video]'), .gif, .webp, or .png (animated).  "
            "[default: RUN.gif in the working directory]",
            show_default=False,
        ),
    ] = None,
    fps: Annotated[float, typer.Option(help="Sample sheets per second.", min=0.1, max=60)] = 8.0,
    duration: Annotated[
        float | None,
        typer.Option(
            help="The length in seconds, instead of --fps.", min=0.1, max=3600, show_default=False
        ),
    ] = None,
    hold: Annotated[
        float, typer.Option(help="Seconds for which the last sheet stays.", min=0, max=60)
    ] = 2.0,
    scale: Annotated[
        int | None,
        typer.Option(
            help="Enlarge the sheets by this factor.  [default: to a width of 480 pixels]",
            min=1,
            max=16,
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
) -> None:
    """Show how a run learned: its sample sheets as a video, with the number of images seen.

    Works while the run is still going. An existing file is replaced when the new one is complete.

    Example: ganymede timelapse runs/first --out first.mp4
    """
    from service.runtime.progress import stage_progress
    from training.preview.timelapse import (
        Frames,
        Timing,
        find_sheets,
        gaps,
        output_format,
        write_timelapse,
    )
    from training.run import Run

    opened = Run(run)
    recipe = opened.recipe()
    target = out or Path(f"{opened.name}.gif")
    output_format(target)
    sheets, left_out = find_sheets(opened.samples)
    for line in [*left_out, *gaps(sheets, recipe.train.sample_images)]:
        typer.echo(line, err=True)
    timing = Timing.of_duration(duration, len(sheets), hold) if duration else Timing(fps, hold)
    frames = Frames(sheets, recipe.train.images, scale)
    with stage_progress() as show:
        write_timelapse(
            frames,
            timing,
            target,
            opened.name,
            lambda done, total: show("drawing frames", done, total),
        )
    seconds = timing.frames(len(sheets)) / timing.fps
    document = {
        "file": str(target),
        "sheets": len(sheets),
        "left_out": len(left_out),
        "images": [sheets[0].images, sheets[-1].images],
        "width": frames.width,
        "height": frames.height,
        "seconds": round(seconds, 3),
    }
    if as_json:
        typer.echo(json.dumps(document, indent=2))
        return
    typer.echo(
        f"wrote {target}: {len(sheets)} sample sheets from {sheets[0].images:,} to "
        f"{sheets[-1].images:,} images, {frames.width}×{frames.height} pixels, {seconds:.1f} s"
    )
