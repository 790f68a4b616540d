"""`ganymede sample`: data sets from a generator."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from service.offline.job import JobError, JobFailed, Layout, SamplingJob, make_job
from service.runtime.errors import UserError
from service.runtime.images.encoding import ImageFormat

if TYPE_CHECKING:
    from service.runtime.models.model import Model

_FAILED_PICTURES = 3
_EVENT_S = 1.0


class Interrupted(UserError):
    """The job was told to stop, and goes on by the same command."""

    label = ""

    def __init__(self, number: int, done: int, count: int) -> None:
        super().__init__(
            f"stopped by {signal.Signals(number).name}: {done:,} of {count:,} pictures are done; "
            "the same command goes on"
        )
        self.exit_code = 128 + number  # type: ignore[misc]


def sample(
    model: Annotated[str, typer.Argument(help="NAME or NAME@VERSION.")],
    out: Annotated[
        str,
        typer.Option(help="A folder, or a URL that fsspec knows: s3://bucket/folder, gs://…"),
    ],
    count: Annotated[int | None, typer.Option(help="How many.", show_default=False)] = None,
    seed: Annotated[
        int | None, typer.Option(help="The first seed.  [default: 0]", show_default=False)
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(help="In place of both, from A to B.", metavar="A-B", show_default=False),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help="balanced; or NAME,NAME,… in turn; or NAME=WEIGHT,… drawn for each seed. "
            "Each seed's own class, as the service has it, when not said.",
            show_default=False,
        ),
    ] = None,
    truncation: Annotated[
        float | None, typer.Option(help="The model's own when not said.", show_default=False)
    ] = None,
    mix: Annotated[
        str | None,
        typer.Option(
            help="Layers that come from the styles of a second seed: coarse, middle, fine or "
            "indices, with commas between.",
            metavar="LAYERS",
            show_default=False,
        ),
    ] = None,
    resize: Annotated[
        str | None,
        typer.Option(help="Pixels, by Lanczos.", metavar="SIDE|WIDTHxHEIGHT", show_default=False),
    ] = None,
    input_: Annotated[
        str | None,
        typer.Option(
            "--input",
            help="For models that make pictures of pictures: a folder, or tar files as WebDataset "
            "has them, here or by URL.",
            metavar="FOLDER|TAR",
            show_default=False,
        ),
    ] = None,
    mask: Annotated[
        str | None,
        typer.Option(
            help="For inpaint: masks of the same names; white is filled.",
            metavar="FOLDER|TAR",
            show_default=False,
        ),
    ] = None,
    boxes: Annotated[
        str | None,
        typer.Option(
            help="For inpaint, in place of masks: what is filled in every picture.",
            metavar="X,Y,WIDTH,HEIGHT;…",
            show_default=False,
        ),
    ] = None,
    direction: Annotated[
        str | None,
        typer.Option(
            help="Of a model that has several; its first when not said.", show_default=False
        ),
    ] = None,
    layout: Annotated[
        Layout,
        typer.Option(
            "--format",
            help="folder: a file each, in a folder for each class. webdataset: tar shards. "
            "parquet: as Hugging Face's datasets reads it.",
        ),
    ] = Layout.FOLDER,
    image: Annotated[ImageFormat, typer.Option(help="The pictures' own format.")] = ImageFormat.PNG,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="This machine, or a Ray cluster.")
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            help="A running Ray cluster's; one on this machine is started when not said.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=0, help="Batches at a time; 0 finds the best number.")
    ] = 0,
    shard_size: Annotated[
        int | None,
        typer.Option(
            help="Pictures that are written and noted as done together.  [default: 1000, fewer "
            "for a small job]",
            show_default=False,
        ),
    ] = None,
    models: Annotated[
        Path | None,
        typer.Option(
            help="The model repository.  [default: ./models]  [env: GANYMEDE_MODELS]",
            show_default=False,
        ),
    ] = None,
    provider: Annotated[
        str | None,
        typer.Option(
            metavar="auto|cuda|cpu",
            help="Where the graphs run.  [default: auto]  [env: GANYMEDE_PROVIDER]",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Events as JSON lines, for schedulers.")
    ] = False,
) -> None:
    """Make a data set: picture i is the one that the service makes of seed + i, or, with --input,
    of picture i there.

    Killed or failed, the same command goes on with what is missing. Exits with 0 when all is done,
    1 when something failed, 2 for what cannot be done at all, 3 when single pictures could not be
    made, and 128 + n when signal n stopped it.

    Example: ganymede sample biggan-flowers --count 10000 --classes balanced --out data/flowers
    """
    from service.runtime.models.catalog import find_model
    from service.runtime.onnx.execution_plans import Planner, PlanOptions, cache_file
    from service.runtime.onnx.sessions import pick_provider
    from service.settings import load_settings

    given: dict[str, Any] = {"models": models, "provider": provider}
    settings = load_settings({name: value for name, value in given.items() if value is not None})
    wish = PlanOptions(workers, settings.threads, settings.max_rows, settings.plan == "measure")
    if workers:
        # Its cores are shared by that many runs.
        wish = PlanOptions(workers, settings.threads or 1, settings.max_rows, wish.measure)
    planner = Planner(pick_provider(settings.provider), wish, cache_file())
    loaded = find_model(settings.models, model, planner)
    job = make_job(
        loaded.manifest,
        count=count,
        seeds=seeds,
        seed=seed,
        classes=classes,
        truncation=truncation,
        mix=mix,
        resize=resize,
        layout=layout,
        image=image,
        shard_size=shard_size,
        input_=input_,
        mask=mask,
        boxes=boxes,
        direction=direction,
    )
    plan = _Plan(loaded, job, out, engine, address, as_json=as_json)
    if _carry_out(plan):
        raise typer.Exit(_FAILED_PICTURES)


@dataclass(frozen=True)
class _Plan:
    """A job, and how it is to be done."""

    model: Model
    job: SamplingJob
    out: str
    engine: str
    address: str | None
    as_json: bool


def _carry_out(plan: _Plan) -> bool:
    """Do the job, or what is left of it; return whether pictures could not be made."""
    from service.offline import execution
    from service.offline.engines import local
    from service.offline.image_to_image import Stopped
    from service.offline.ledger import Ledger
    from service.offline.shards import ShardBuilder
    from service.offline.stores import Store, StoreError

    job, out = plan.job, plan.out
    store = Store(out)
    execution.check_output(job, store)
    ledger = Ledger(store, job)
    teller = _Teller(job, as_json=plan.as_json)
    if ledger.is_complete():
        teller.said("complete", f"{out} is complete already: nothing is left to do")
        return False
    builder = ShardBuilder(plan.model, job, store)
    todo, records = execution.remaining_shards(job, ledger)
    left = sum(len(job.numbers(shard)) for shard in todo)
    at_once = plan.model.plan.workers
    expected = execution.estimate(builder.renderer, job, store, left, at_once)
    if expected.free_bytes is not None and expected.bytes > expected.free_bytes:
        raise JobError(
            f"{left:,} pictures take about {_size(expected.bytes)}, and {out} has room for "
            f"{_size(expected.free_bytes)}"
        )
    # Here, since nothing has been begun: the same command would not go on.
    store.assert_writable()
    try:
        with ledger.locked(), _signals() as signals, teller.watching(expected, job.count - left):
            ledger.begin()
            began = time.perf_counter()
            if plan.engine == "ray":
                from service.offline.engines import ray

                made = ray.run(
                    plan.model, job, store, todo, teller.add, signals.stopped, plan.address
                )
            else:
                made = local.run(builder, todo, at_once, teller.add, signals.stopped)
            records += made
            summary = execution.finish(
                builder.renderer, job, ledger, records, time.perf_counter() - began
            )
    except Stopped:
        done = sum(record.images for record in execution.remaining_shards(job, ledger)[1])
        raise Interrupted(signals.number, done, job.count) from None
    except (StoreError, JobFailed) as error:
        raise _failed(error, execution.remaining_shards(job, ledger)[1], job) from error
    teller.summed(summary, out)
    return bool(summary["failed"])


def _failed(error: Exception, records: list[Any], job: SamplingJob) -> JobFailed:
    done = sum(record.images for record in records)
    return JobFailed(
        f"{error}; {done:,} of {job.count:,} pictures are done, and the same command goes on"
    )


class _Signals:
    def __init__(self) -> None:
        self.number = 0

    def stopped(self) -> bool:
        return self.number != 0


@contextmanager
def _signals() -> Iterator[_Signals]:
    """Note the first SIGINT or SIGTERM; the second one ends the process as ever."""
    noted = _Signals()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}

    def note(number: int, _: object) -> None:
        noted.number = number
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in numbers:
        signal.signal(number, note)
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Teller:
    """Says how far a job is: a bar for people, events for programs."""

    def __init__(self, job: SamplingJob, *, as_json: bool) -> None:
        self._job = job
        self._as_json = as_json
        self._lock = threading.Lock()
        self._images = self._bytes = self._failed = 0

    def add(self, images: int, size: int, failed: int) -> None:
        """Count what was made."""
        with self._lock:
            self._images += images
            self._bytes += size
            self._failed += failed

    def said(self, event: str, text: str, **more: object) -> None:
        """Say one thing."""
        if self._as_json:
            typer.echo(json.dumps({"event": event, "message": text, **more}))
        else:
            typer.echo(text)

    def summed(self, summary: dict[str, Any], out: str) -> None:
        """Say what was made."""
        failed = f"; {len(summary['failed'])} could not be made" if summary["failed"] else ""
        rate = self._images / max(summary["seconds"], 1e-6)
        self.said(
            "done",
            f"{summary['images']:,} pictures, {_size(summary['bytes'])}, in {out}{failed} "
            f"({rate:,.0f} a second)",
            **summary,
        )

    @contextmanager
    def watching(self, expected: Any, before: int) -> Iterator[None]:
        """Say how it goes until the block ends; `before` pictures were there already."""
        goes_on = f", {before:,} are there already" if before else ""
        self.said(
            "start",
            f"{expected.images:,} pictures to make{goes_on}: about {_time(expected.seconds)}, "
            f"{_size(expected.bytes)}",
            images=expected.images,
            there_already=before,
            seconds=round(expected.seconds, 1),
            bytes=expected.bytes,
        )
        ended = threading.Event()
        watch = self._events if self._as_json else self._bar
        thread = threading.Thread(target=watch, args=(ended, before), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _events(self, ended: threading.Event, before: int) -> None:
        began = time.perf_counter()
        last = False
        while not last:
            last = ended.wait(_EVENT_S)
            seconds = time.perf_counter() - began
            rate = self._images / seconds
            left = self._job.count - before - self._images - self._failed
            event = {
                "event": "progress",
                "images": before + self._images,
                "of": self._job.count,
                "per_second": round(rate, 1),
                "eta_s": round(left / rate, 1) if rate else None,
                "bytes": self._bytes,
                "failed": self._failed,
            }
            typer.echo(json.dumps(event))

    def _bar(self, ended: threading.Event, before: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        console = Console(file=sys.stderr)
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[more]}"))
        with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
            task = bar.add_task("", total=self._job.count, completed=before, more="")
            began = time.perf_counter()
            last = False
            while not last:
                last = ended.wait(0.2)
                rate = self._images / (time.perf_counter() - began)
                left = self._job.count - before - self._images
                eta = f"ETA {_time(left / rate)}" if rate else ""
                failed = f"  {self._failed} failed" if self._failed else ""
                more = f"{rate:,.0f}/s  {_size(self._bytes)}  {eta}{failed}"
                bar.update(task, completed=before + self._images, more=more)


def _size(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
