"""A job from beginning to end: what it will take, what is left of it, its engine, its summary."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from service.offline.job import JobError, Layout, SamplingJob
from service.offline.ledger import Ledger, ShardRecord
from service.offline.rendering import ShardRenderer, contact_sheet
from service.offline.stores import Store
from service.offline.writers import assert_layout_supported

# Pictures that the estimate is made from.
_TRIED = 16
# A file takes whole blocks of its file system, and an entry in a folder; a tar's member its header,
# the rest of its block, and the files beside it.
_BLOCK = 4096
_MEMBER = 2560
# What has to stay free beside the job's own, so that a disk is never filled to the last byte.
_SPARE = 64 * 2**20
_SHEET = 64


class ShardEngine(Protocol):
    """Makes shards, telling what is done as it comes."""

    def __call__(
        self,
        shards: Sequence[int],
        listener: Callable[[int, int, int], None],
        stopped: Callable[[], bool],
    ) -> list[ShardRecord]:
        """Make `shards`; raises StoreError and Stopped."""


@dataclass(frozen=True)
class Estimate:
    """What is left to make of a job, and what that takes; `free_bytes` where it is known."""

    images: int
    seconds: float
    bytes: int
    free_bytes: int | None


def estimate(
    renderer: ShardRenderer, job: SamplingJob, store: Store, left: int, workers: int
) -> Estimate:
    """Make a few pictures, and tell from them what `left` of them take."""
    step = max(1, job.count // _TRIED)
    numbers = range(0, job.count, step)[:_TRIED]
    renderer.render(numbers[:1])  # What comes first takes longer, and is no measure.
    began = time.perf_counter()
    files = [painted.file for painted in renderer.render(numbers) if painted.file is not None]
    seconds = time.perf_counter() - began
    match job.layout:
        case Layout.FOLDER:
            sizes = [-(-len(file) // _BLOCK) * _BLOCK for file in files]
        case Layout.WEBDATASET:
            sizes = [len(file) + _MEMBER for file in files]
        case Layout.PARQUET:
            sizes = [len(file) + 256 for file in files]
    # The line about each picture is there twice while the metadata is put together.
    each = sum(sizes) / max(1, len(sizes)) + 600
    return Estimate(left, left * seconds / len(numbers) / workers, int(left * each), free(store))


def free(store: Store) -> int | None:
    """Return how many bytes a job may take; None where nobody knows."""
    there = store.free_bytes()
    return None if there is None else max(0, there - _SPARE)


def remaining_shards(job: SamplingJob, ledger: Ledger) -> tuple[list[int], list[ShardRecord]]:
    """Return the shards to make, and the records of those that are done."""
    done = ledger.done()
    return [shard for shard in range(job.shards) if shard not in done], list(done.values())


def finish(
    renderer: ShardRenderer,
    job: SamplingJob,
    ledger: Ledger,
    records: Sequence[ShardRecord],
    seconds: float,
) -> dict[str, Any]:
    """Put the metadata, a contact sheet and a summary beside the pictures; return the summary."""
    failed = sorted(seed for record in records for seed in record.failed)
    summary: dict[str, Any] = {
        "model": f"{job.model}@{job.version}",
        "digest": job.digest,
        "images": sum(record.images for record in records),
        "bytes": sum(record.bytes for record in records),
        "failed": failed,
        "seconds": round(seconds, 3),
    }
    step = max(1, job.count // _SHEET)
    items = [renderer.items(number) for number in range(0, job.count, step)[:_SHEET]]
    pictures = [picture for picture in renderer.pixels(items) if picture is not None]
    sheet = io.BytesIO()
    if pictures:
        contact_sheet(pictures).save(sheet, "PNG")
    ledger.finish(summary, sheet.getvalue())
    return summary


def check_output(job: SamplingJob, store: Store) -> None:
    """Raise JobError for what the job needs and is not here."""
    assert_layout_supported(job.layout)
    there = store.local
    if there is not None and there.exists() and not there.is_dir():
        raise JobError(f"--out: {there} is no folder")
