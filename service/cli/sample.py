"""`ganymede sample`: generate datasets."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from service.cli.film import FilmOptions, is_video, sample_film
from service.cli.interrupts import catch_stop_signal
from service.cli.options import ProviderOption, errors_by_flag, loaded_model
from service.cli.sampling_progress import SamplingProgress
from service.offline.job import JobError, JobFailed, Layout, SamplingJob, make_job
from service.runtime.audio.formats import AudioFormat
from service.runtime.errors import UserError
from service.runtime.formatting import format_size
from service.runtime.images.encoding import ImageFormat
from service.runtime.text.records import model_vocabulary

if TYPE_CHECKING:
    from service.offline.ledger import Ledger
    from service.runtime.models.model import Model

_EXIT_FAILED_IMAGES = 3


class SamplingInterrupted(UserError):
    """The job was stopped by a signal; the same command resumes it."""

    label = ""

    def __init__(self, number: int, done: str) -> None:
        super().__init__(
            f"stopped by {signal.Signals(number).name}: {done}; run the same command to resume"
        )
        self.exit_code = 128 + number  # type: ignore[misc]


def sample(
    model: Annotated[str, typer.Argument(help="NAME or NAME@VERSION.")],
    out: Annotated[
        str,
        typer.Option(
            help="Output folder, or a URL supported by fsspec: s3://bucket/folder, gs://…; or for "
            "a film, a file that ends in .mp4, .webm or .mkv."
        ),
    ],
    count: Annotated[
        int | None, typer.Option(help="Number of images, sounds or texts.", show_default=False)
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="First seed.  [default: 0]", show_default=False)
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            help="Range of seeds, instead of --count and --seed.", metavar="A-B", show_default=False
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help="balanced; or NAME,NAME,… to cycle through classes; or NAME=WEIGHT,… to draw one "
            "for each seed. Default: the class of each seed, as in the service.",
            show_default=False,
        ),
    ] = None,
    truncation: Annotated[
        float | None, typer.Option(help="Default: the model's default.", show_default=False)
    ] = None,
    mix: Annotated[
        str | None,
        typer.Option(
            help="Style mixing: layers taken from a second seed; coarse, middle, fine or indices, "
            "separated by commas.",
            metavar="LAYERS",
            show_default=False,
        ),
    ] = None,
    directions: Annotated[
        str | None,
        typer.Option(
            help="Move every image along directions of the model, in standard deviations.",
            metavar="NAME=AMOUNT,…",
            show_default=False,
        ),
    ] = None,
    resize: Annotated[
        str | None,
        typer.Option(
            help="Resize to this many pixels (Lanczos).",
            metavar="SIDE|WIDTHxHEIGHT",
            show_default=False,
        ),
    ] = None,
    rank: Annotated[
        str | None,
        typer.Option(
            help="Keep this share of the generated images, the best by the model's discriminator: "
            "0.25 keeps the best quarter. rejection=0.25 selects by discriminator rejection "
            "sampling.",
            metavar="SHARE|METHOD=SHARE",
            show_default=False,
        ),
    ] = None,
    input_: Annotated[
        str | None,
        typer.Option(
            "--input",
            help="For image-to-image models: a folder of images, or tar files (WebDataset) or ZIP "
            "archives of them, as a path or URL; or a film.",
            metavar="FOLDER|TAR|ZIP|FILM",
            show_default=False,
        ),
    ] = None,
    mask: Annotated[
        str | None,
        typer.Option(
            help="For inpaint: masks with the names of the input images; white areas are filled. "
            "For a film: one image.",
            metavar="FOLDER|TAR",
            show_default=False,
        ),
    ] = None,
    boxes: Annotated[
        str | None,
        typer.Option(
            help="For inpaint, instead of masks: areas to fill in every image.",
            metavar="X,Y,WIDTH,HEIGHT;…",
            show_default=False,
        ),
    ] = None,
    direction: Annotated[
        str | None,
        typer.Option(
            help="For models with several directions. Default: the first.", show_default=False
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="For text-to-image models: a file with one prompt per line; image i has prompt i, "
            "from the first again if there are more images.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            help="For models of texts: divides the logits; 0 always takes the most likely token.  "
            "[default: 1]",
            show_default=False,
        ),
    ] = None,
    prefix: Annotated[
        str | None,
        typer.Option(help="For models of texts: the beginning of every text.", show_default=False),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            help="For models of texts: the maximum number of tokens after the prefix. Default: "
            "that of the model.",
            show_default=False,
        ),
    ] = None,
    layout: Annotated[
        Layout | None,
        typer.Option(
            "--format",
            help="folder: one file per image, one folder per class. webdataset: tar shards. "
            "parquet: for Hugging Face datasets. jsonl: for texts, and only for them. Default: "
            "folder, or jsonl.",
            show_default=False,
        ),
    ] = None,
    image: Annotated[ImageFormat, typer.Option(help="Image file format.")] = ImageFormat.PNG,
    audio: Annotated[
        AudioFormat | None,
        typer.Option(help="Audio file format, for models of audio.", show_default="wav"),
    ] = None,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="This machine, or a Ray cluster.")
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            help="Address of a running Ray cluster. Default: RAY_ADDRESS, or start one here.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            min=0,
            help="Batches that run in parallel, or actors of a Ray cluster. 0 measures the best "
            "number, or uses the whole cluster.",
        ),
    ] = 0,
    shard_size: Annotated[
        int | None,
        typer.Option(
            help="Images, sounds or texts per shard, the unit of writing and resuming.  "
            "[default: 1000, fewer for a small job]",
            show_default=False,
        ),
    ] = None,
    models: Annotated[
        Path | None,
        typer.Option(
            help="Model repository.  [default: ./models]  [env: GANYMEDE_MODELS]",
            show_default=False,
        ),
    ] = None,
    provider: ProviderOption = None,
    quality: Annotated[
        int | None,
        typer.Option(min=1, max=100, help="Quality of a film.  [default: 80]", show_default=False),
    ] = None,
    partial: Annotated[
        bool,
        typer.Option(
            "--partial", help="End a damaged film before the first frame that cannot be read."
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print progress events as JSON lines.")
    ] = False,
) -> None:
    """Generate a dataset.

    Image i is the image that the service generates for seed + i or, with --input, from input i.
    Models of audio write sounds, and models of texts write JSON Lines.
    With --rank, more images are generated, and the best of each shard are kept.
    If --out ends in .mp4, .webm or .mkv, --input is a film, which keeps its sound and its times.

    After an interruption or an error, the same command resumes the job. Exit codes: 0 done;
    1 failed; 2 invalid input; 3 done, but some images failed; 128 + n stopped by signal n.

    Example: ganymede sample biggan-flowers --count 10000 --classes balanced --out data/flowers
    """
    from service.offline import options

    if input_ is not None and (is_video(input_) or is_video(out)):
        # Options that a film does not have, with their defaults.
        others: dict[str, object] = {
            "count": count,
            "seed": seed,
            "seeds": seeds,
            "classes": classes,
        }
        others |= {"truncation": truncation, "mix": mix, "directions": directions}
        others |= {"rank": rank, "shard-size": shard_size}
        others |= {"format": layout, "prompts": prompts}
        others |= {"temperature": temperature, "prefix": prefix, "max-length": max_length}
        others |= {"image": None if image is ImageFormat.PNG else image}
        others |= {"audio": audio}
        others |= {"engine": None if engine == "local" else engine, "address": address}
        with errors_by_flag():
            sample_film(
                FilmOptions(
                    model,
                    input_,
                    out,
                    mask,
                    None if boxes is None else options.parse_boxes(boxes),
                    direction,
                    None if resize is None else options.parse_size(resize),
                    quality,
                    partial,
                ),
                lambda: loaded_model(model, models, provider, workers=workers),
                [name for name, value in others.items() if value is not None],
                as_json=as_json,
            )
        return
    if quality is not None or partial:
        flag = "--partial" if partial else "--quality"
        raise JobError(f"{flag}: only for a film, as --input film.mp4 --out new.mp4")

    # The nodes of a cluster use plans of their own.
    loaded = loaded_model(model, models, provider, workers=workers, measure=engine == "local")
    names = loaded.manifest.classes
    with errors_by_flag():
        job = make_job(
            loaded.manifest,
            count=count,
            seeds=None if seeds is None else options.parse_seed_range(seeds),
            seed=seed,
            classes=None if classes is None else options.parse_classes(classes, names),
            truncation=truncation,
            mix=None if mix is None else options.parse_layers(mix),
            resize=None if resize is None else options.parse_size(resize),
            layout=layout,
            image=image,
            audio=audio,
            shard_size=shard_size,
            input_=input_,
            mask=mask,
            boxes=None if boxes is None else options.parse_boxes(boxes),
            direction=direction,
            prompts=None if prompts is None else options.read_prompts(prompts),
            directions=None if directions is None else options.parse_directions(directions),
            rank=None if rank is None else options.parse_rank(rank),
            temperature=temperature,
            prefix=prefix,
            max_length=max_length,
            vocabulary=None if loaded.manifest.text is None else model_vocabulary(loaded),
        )
    command = _SampleCommand(loaded, job, out, engine, address, workers)
    plural = loaded.manifest.output.kind
    failed_seeds = command.run(SamplingProgress(job.count, plural, as_json=as_json))
    if failed_seeds:
        raise typer.Exit(_EXIT_FAILED_IMAGES)


@dataclass(frozen=True)
class _SampleCommand:
    """A job with its output, and the engine that runs it."""

    model: Model
    job: SamplingJob
    out: str
    engine: str
    address: str | None
    # Actors of a cluster; 0 if the cluster determines them.
    workers: int

    def run(self, progress: SamplingProgress) -> list[int]:
        """Run the remaining shards of the job. Returns the seeds that failed."""
        from service.offline.engines import local
        from service.offline.execution import (
            check_output,
            estimate,
            remaining_shards,
            write_summary,
        )
        from service.offline.halving import Stopped
        from service.offline.ledger import Ledger, as_started
        from service.offline.shards import ShardBuilder
        from service.offline.stores import Store, StoreError

        workers = self.model.plan.workers
        store = Store(self.out)
        with errors_by_flag():
            check_output(self.job, store)
        job = as_started(self.job, store)
        ledger = Ledger(store, job)
        if ledger.is_complete():
            progress.report("complete", f"{self.out} is already complete")
            return []
        builder = ShardBuilder(self.model, job, store)
        shards, records = remaining_shards(job, ledger)
        remaining = sum(len(job.numbers(shard)) for shard in shards)
        expected = estimate(builder.renderer, job, store, remaining, workers)
        if expected.free_bytes is not None and expected.bytes > expected.free_bytes:
            raise JobError(
                f"not enough disk space: {remaining:,} {progress.plural} take about "
                f"{format_size(expected.bytes)}, but {self.out} has "
                f"{format_size(expected.free_bytes)} free"
            )
        if job.marked != self.job.marked:
            progress.report(
                "unmarked",
                "an earlier version started this job: its images do not carry the mark of "
                "generated images; for marked images, choose another --out",
            )
        if truncated := builder.renderer.truncated_prompts():
            progress.report(
                "truncated",
                f"{len(truncated):,} prompts are too long for the text encoder, which uses their "
                f"first tokens only; the first of them is in line {truncated[0] + 1:,}",
                truncated_prompts=truncated,
            )
        # Checked before the job is saved, so that the error does not ask to resume it.
        store.assert_writable()
        try:
            with (
                ledger.locked(),
                catch_stop_signal() as stop,
                progress.running(expected, job.count - remaining),
            ):
                ledger.begin()
                started = time.perf_counter()
                if self.engine == "ray":
                    from service.offline.engines import ray

                    records += ray.run(
                        self.model,
                        job,
                        store,
                        shards,
                        progress.add,
                        stop.received,
                        self.address,
                        self.workers,
                    )
                else:
                    records += local.run(builder, shards, workers, progress.add, stop.received)
                seconds = time.perf_counter() - started
                summary = write_summary(builder.renderer, job, ledger, records, seconds)
        except Stopped:
            raise SamplingInterrupted(stop.number, _done(ledger, job, progress)) from None
        except (StoreError, JobFailed) as error:
            raise JobFailed(
                f"{error}; {_done(ledger, job, progress)}; run the same command to resume"
            ) from error
        progress.report_done(summary, self.out)
        failed_seeds: list[int] = summary["failed"]
        return failed_seeds


def _done(ledger: Ledger, job: SamplingJob, progress: SamplingProgress) -> str:
    done = sum(record.images for record in ledger.records().values())
    return f"{done:,} of {job.count:,} {progress.plural} are done"
