"""`ganymede walk`: writes a walk through latent space as a video, an animation or frames."""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from service.cli.interrupts import catch_stop_signal
from service.cli.options import ModelsOption, ProviderOption, errors_by_flag, loaded_model
from service.runtime.errors import UserError
from service.runtime.formatting import counted, format_size

# File name suffixes by format; a path without suffix is a folder of frames.
_FORMATS = {
    ".mp4": "mp4",
    ".webm": "webm",
    ".webp": "webp",
    ".gif": "gif",
    ".png": "png",
    ".apng": "png",
    ".zip": "zip",
    ".npy": "npy",
    "": "frames",
}
_MAX_FRAMES = 10_000_000


class WalkInterrupted(UserError):
    """The command was stopped by a signal."""

    label = ""

    def __init__(self, number: int, out: Path) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}: {out} was not written")
        self.exit_code = 128 + number  # type: ignore[misc]


def walk(
    model: Annotated[str, typer.Argument(help="NAME or NAME@VERSION.")],
    seeds: Annotated[str, typer.Option(help="Seeds of the key frames, in order.", metavar="A,B,…")],
    out: Annotated[
        Path,
        typer.Option(
            help="A file that ends in .mp4, .webm, .webp, .gif, .png (APNG), .zip or .npy; or a "
            "folder for PNG files.",
        ),
    ],
    frames: Annotated[int, typer.Option(help="Number of frames, first and last included.")] = 240,
    fps: Annotated[float, typer.Option(help="Frames per second.", min=1, max=240)] = 30.0,
    loop: Annotated[
        bool, typer.Option("--loop", help="Return to the first seed at the end.")
    ] = False,
    space: Annotated[
        Literal["z", "w"] | None,
        typer.Option(
            help="Space to interpolate in. Default: w for a model with styles, otherwise z.",
            show_default=False,
        ),
    ] = None,
    path: Annotated[
        Literal["linear", "spherical"] | None,
        typer.Option(help="Default: spherical in z, linear in w.", show_default=False),
    ] = None,
    class_: Annotated[
        str | None,
        typer.Option("--class", help="A class by name or index.", show_default=False),
    ] = None,
    truncation: Annotated[
        float | None, typer.Option(help="Default: the model's default.", show_default=False)
    ] = None,
    scale: Annotated[
        int | None,
        typer.Option(help="Enlarge the frames by this factor.", show_default=False),
    ] = None,
    filter_: Annotated[
        Literal["nearest", "bicubic"] | None,
        typer.Option(
            "--filter", help="How to enlarge frames.  [default: nearest]", show_default=False
        ),
    ] = None,
    quality: Annotated[
        int | None,
        typer.Option(help="Quality of a video, 1 to 100.  [default: 80]", show_default=False),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file if it exists.")
    ] = False,
    models: ModelsOption = None,
    provider: ProviderOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON, for scripts.")
    ] = False,
) -> None:
    """Write a walk through latent space: evenly spaced frames from seed to seed.

    The frames are those of the route /v1/interpolate. The output appears when it is complete.
    .mp4 and .webm need the extra video.

    Example: ganymede walk stylegan2-flowers --seeds 1,5,9 --frames 240 --scale 8 --out walk.mp4
    """
    from service.offline.halving import Stopped
    from service.offline.video.walk import write_walk
    from service.runtime import requests
    from service.runtime.progress import stage_progress
    from service.runtime.request_fields import SourceFields, index_or_name
    from service.runtime.video.walk_output import walk_output

    if out.suffix.lower() not in _FORMATS:
        known = ", ".join(suffix for suffix in _FORMATS if suffix)
        raise UserError(f"--out: expected a folder or a file that ends in {known}; got {out.name}")
    _assert_free(out, overwrite)
    if not re.fullmatch(r"\d{1,12}(,\d{1,12})*", seeds):
        raise UserError(f"--seeds: expected seeds separated by commas, such as 1,5,9; got {seeds}")
    loaded = loaded_model(model, models, provider)
    manifest = loaded.manifest
    with errors_by_flag({"sources": "seeds", "format": "out"}):
        interpolation = requests.interpolation(
            manifest,
            max_frames=_MAX_FRAMES,
            sources=[SourceFields(int(seed)) for seed in seeds.split(",")],
            frames=frames,
            loop=loop,
            space=space,
            path=path,
            class_=None if class_ is None else index_or_name(class_, manifest.classes),
            truncation=truncation,
        )
        output = walk_output(
            manifest,
            _FORMATS[out.suffix.lower()],
            fps=fps,
            scale=scale,
            filter_=filter_,
            quality=quality,
        )
    started = time.perf_counter()
    with catch_stop_signal() as stop, stage_progress() as show:
        try:
            write_walk(
                loaded,
                interpolation,
                output,
                out,
                lambda done: show("generating frames", done, frames),
                stop.received,
            )
        except Stopped:
            raise WalkInterrupted(stop.number, out) from None
    seconds = time.perf_counter() - started
    files = [out] if out.is_file() else list(out.iterdir())
    size = sum(file.stat().st_size for file in files)
    if as_json:
        fields = {"out": str(out), "frames": frames, "bytes": size, "seconds": round(seconds, 3)}
        typer.echo(json.dumps(fields))
    else:
        typer.echo(
            f"wrote {counted(frames, 'frame')} ({format_size(size)}) to {out}; "
            f"{frames / seconds:,.1f} per second"
        )


def _assert_free(out: Path, overwrite: bool) -> None:
    """Raise UserError if the output would replace something."""
    if out.is_dir() and out.suffix:
        raise UserError(f"--out: {out} is a folder; a {out.suffix} file needs another name")
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"--out: the folder {out} exists and is not empty")
    if out.is_file() and (not overwrite or not out.suffix):
        raise UserError(f"--out: {out} exists; use another name, or --overwrite")
