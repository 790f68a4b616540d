"""`ganymede sample --input FILM`: a film through an image-to-image model."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from service.cli.interrupts import catch_stop_signal
from service.offline.job import JobError, JobFailed
from service.runtime.errors import UserError
from service.runtime.files import CannotWrite
from service.runtime.formatting import counted, duration, format_size
from service.runtime.images.animation import DEFAULT_QUALITY
from service.runtime.progress import stage_progress
from service.runtime.video.containers import CONTAINERS, container_of

if TYPE_CHECKING:
    from service.offline.video.film_job import FilmJob
    from service.runtime.images.encoding import Pixels
    from service.runtime.models.manifest import Manifest
    from service.runtime.models.model import Model
    from service.runtime.video.film import FilmReader

# Suffixes of films that are read, besides those that are written. The content decides the format.
_FILM_SUFFIXES = frozenset(
    {
        ".mov",
        ".avi",
        ".m4v",
        ".mpg",
        ".mpeg",
        ".ts",
        ".mts",
        ".m2ts",
        ".wmv",
        ".flv",
        ".ogv",
        ".3gp",
    }
)
_EVENT_INTERVAL_S = 1.0


class FilmInterrupted(UserError):
    """The job was stopped by a signal; the same command resumes it."""

    label = ""

    def __init__(self, number: int, done: str) -> None:
        super().__init__(
            f"stopped by {signal.Signals(number).name}: {done}; run the same command to resume"
        )
        self.exit_code = 128 + number  # type: ignore[misc]


@dataclass(frozen=True)
class FilmOptions:
    """The options of the command that apply to films."""

    model: str
    film: str
    out: str
    mask: str | None
    boxes: Sequence[Sequence[int]] | None
    direction: str | None
    resize: tuple[int, int] | None
    quality: int | None
    partial: bool


def is_video(path: str) -> bool:
    """Whether a path has the suffix of a film."""
    return container_of(path) is not None or Path(path).suffix.lower() in _FILM_SUFFIXES


def sample_film(
    options: FilmOptions, load_model: Callable[[], Model], unused: Sequence[str], *, as_json: bool
) -> None:
    """Run or resume the job. `unused` are flags that were given and do not apply to films.

    Raises UserError.
    """
    from service.offline.halving import Stopped
    from service.offline.video.film import FilmTask
    from service.offline.video.film_job import SEGMENT_FRAMES, FilmLedger
    from service.runtime.image_to_image import ImageMismatch
    from service.runtime.video.film import FilmDamaged, FilmReader

    out = _output(options.out)
    if unused:
        raise JobError(f"--{unused[0]}: does not apply to a film")
    if "://" in options.film:
        raise JobError(f"--input: a film is read from a local file, not from {options.film}")
    film = Path(options.film)
    if film.is_dir():
        raise JobError(f"--input: {film} is a folder; a film is one file")
    reader = FilmReader(film)
    model = load_model()
    mask = _read_mask(options.mask)
    ledger = FilmLedger(out, _job(model.manifest, options, model.digest))
    progress = _FilmProgress(as_json)
    if ledger.is_complete():
        progress.report("complete", f"{out} is already complete")
        return
    if mask is None and options.boxes is not None:
        from service.runtime.images.masks import box_mask

        mask = box_mask(options.boxes, reader.info.width, reader.info.height)
    try:
        task = FilmTask(model, ledger.job, reader, ledger, mask)
    except ImageMismatch as error:
        raise JobError(f"--input: {error}") from error

    def done() -> str:
        frames = SEGMENT_FRAMES * len(ledger.segments())
        return f"about {frames:,} of {progress.total or '?'} frames are done"

    started = time.perf_counter()
    try:
        with catch_stop_signal() as stop, stage_progress() as show:
            progress.start(reader, show)
            summary = task.run(progress.add, stop.received, partial=options.partial)
    except Stopped:
        raise FilmInterrupted(stop.number, done()) from None
    except FilmDamaged as error:
        raise JobFailed(f"{error}; {done()}; --partial ends the film there") from error
    except (JobFailed, CannotWrite) as error:
        raise JobFailed(f"{error}; {done()}; run the same command to resume") from error
    finally:
        reader.close()
    seconds = time.perf_counter() - started
    for note in summary.notes:
        typer.echo(note, err=True)
    progress.report(
        "done",
        f"wrote {counted(summary.frames, 'frame')} ({format_size(summary.bytes)}) to {out} in "
        f"{duration(seconds)}",
        frames=summary.frames,
        bytes=summary.bytes,
        seconds=round(seconds, 3),
        notes=summary.notes,
    )


class _FilmProgress:
    """Reports progress for people, or as JSON lines for programs."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self.total: int | None = None
        self._show: Callable[..., None] = lambda *_: None
        self._first: tuple[int, float] | None = None
        self._next_event = 0.0

    def report(self, event: str, text: str, **fields: Any) -> None:
        """Print `text`; in JSON mode, an event with `fields` instead."""
        typer.echo(
            json.dumps({"event": event, "message": text, **fields}) if self._as_json else text
        )

    def start(self, reader: FilmReader, show: Callable[..., None]) -> None:
        """Describe the film."""
        info = reader.info
        frames = "frames" if info.frames is None else counted(info.frames, "frame")
        self._show = show
        self.report(
            "start",
            f"{reader.path}: {frames} of {info.width}×{info.height}, "
            f"{float(info.rate):.5g} per second",
            frames=info.frames,
        )

    def add(self, done: int, total: int | None) -> None:
        """Note the number of finished frames."""
        self.total = total
        if not self._as_json:
            self._show("generating", done, total, "")
            return
        now = time.monotonic()
        if self._first is None:
            self._first = (done, now)
        if now >= self._next_event or done == total:
            self._next_event = now + _EVENT_INTERVAL_S
            rate = (done - self._first[0]) / max(now - self._first[1], 1e-6)
            left = None if total is None or not rate else round((total - done) / rate, 1)
            event = {"event": "progress", "frames": done, "of": total}
            typer.echo(json.dumps({**event, "per_second": round(rate, 2), "eta_s": left}))


def _output(out: str) -> Path:
    if container_of(out) is None:
        known = ", ".join(f".{name}" for name in CONTAINERS)
        raise JobError(f"--out: a film needs a file name that ends in {known}; got {out}")
    if "://" in out:
        raise JobError(f"--out: a film is written to a local file, not to {out}")
    path = Path(out)
    if path.is_dir():
        raise JobError(f"--out: {path} is a folder")
    return path


def _job(manifest: Manifest, options: FilmOptions, digest: str) -> FilmJob:
    """Return the parameters of the job. Raises InvalidRequest and JobError."""
    from service.offline.video.film_job import FilmJob, fingerprint_of
    from service.runtime import requests
    from service.runtime.images.encoding import ImageFormat
    from service.runtime.request_fields import InvalidRequest

    if manifest.input is None:
        raise InvalidRequest("input", f"{manifest.name} does not take images")
    if options.mask is not None and options.boxes is not None:
        raise InvalidRequest("boxes", "give a mask or boxes, not both")
    is_masked = options.mask is not None or options.boxes is not None
    if manifest.input.masked and not is_masked:
        raise InvalidRequest("mask", f"missing: {manifest.name} needs a mask or boxes")
    if not manifest.input.masked and is_masked:
        flag = "mask" if options.boxes is None else "boxes"
        raise InvalidRequest(flag, f"{manifest.name} takes no mask and no boxes")
    boxes = None if options.boxes is None else tuple(tuple(map(int, box)) for box in options.boxes)
    return FilmJob(
        model=manifest.name,
        version=manifest.version,
        digest=digest,
        task=manifest.task,
        direction=requests.direction_name(manifest, options.direction),
        film=Path(options.film).name,
        film_fingerprint=fingerprint_of(Path(options.film)),
        container=Path(options.out).suffix[1:].lower(),
        quality=options.quality or DEFAULT_QUALITY,
        resize=requests.job_size(options.resize, ImageFormat.WEBP),
        boxes=boxes,
        mask_fingerprint=None if options.mask is None else fingerprint_of(Path(options.mask)),
    )


def _read_mask(path: str | None) -> Pixels | None:
    """Read the mask, one image for all frames. Raises JobError."""
    if path is None:
        return None
    from service.offline.image_to_image import MAX_INPUT_PIXELS
    from service.runtime.images.decoding import ImageDecodeError
    from service.runtime.images.masks import decode_mask

    try:
        content = Path(path).read_bytes()
        return decode_mask(content, max_pixels=MAX_INPUT_PIXELS, formats=None)
    except OSError as error:
        raise JobError(f"--mask: {path} cannot be read: {error.strerror}") from error
    except ImageDecodeError as error:
        raise JobError(f"--mask: {path}: {error}") from error
