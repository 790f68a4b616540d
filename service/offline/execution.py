"""Steps of a job that do not depend on the engine: checks, estimate, remaining shards, summary."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from service.offline.job import JobError, Layout, SamplingJob
from service.offline.ledger import Ledger, ShardRecord
from service.offline.rendering import ShardRenderer, contact_sheet
from service.offline.stores import Store
from service.offline.writers import assert_layout_supported
from service.runtime.images.xmp import SourceType, save_options

# Images that are rendered for the estimate.
_ESTIMATE_SAMPLES = 16
# Bytes on disk per image, in addition to the image itself: unused space in the last block of a
# file, headers, padding and metadata files in a tar, or the other columns in Parquet; and a line of
# metadata, which exists twice while the metadata file is written.
_BLOCK_BYTES = 4096
_TAR_OVERHEAD = 2560
_PARQUET_OVERHEAD = 256
_METADATA_BYTES = 600
# Bytes that stay free, so that a job never fills a disk completely.
_RESERVED_BYTES = 64 * 2**20
_CONTACT_SHEET_IMAGES = 64


@dataclass(frozen=True)
class Estimate:
    """The remaining images of a job, and the seconds and bytes that they take.

    `free_bytes` is None if unknown.
    """

    images: int
    seconds: float
    bytes: int
    free_bytes: int | None


def estimate(
    renderer: ShardRenderer, job: SamplingJob, store: Store, remaining: int, workers: int
) -> Estimate:
    """Render a few images, and extrapolate to `remaining` images on `workers` workers."""
    # The candidates of a selection are samples, too.
    samples = max(1, _ESTIMATE_SAMPLES // (job.candidates // job.count))
    step = max(1, job.count // samples)
    numbers = range(0, job.count, step)[:samples]
    renderer.render(numbers[:1])  # Warm-up: the first run takes longer.
    started = time.perf_counter()
    files = [image.file for image in renderer.render(numbers) if image.file is not None]
    seconds = time.perf_counter() - started
    match job.layout:
        case Layout.FOLDER:
            sizes = [-(-len(file) // _BLOCK_BYTES) * _BLOCK_BYTES for file in files]
        case Layout.WEBDATASET:
            sizes = [len(file) + _TAR_OVERHEAD for file in files]
        case Layout.PARQUET:
            sizes = [len(file) + _PARQUET_OVERHEAD for file in files]
        case Layout.JSONL:
            sizes = [len(file) for file in files]
    image_bytes = sum(sizes) / max(1, len(sizes)) + _METADATA_BYTES
    return Estimate(
        remaining,
        remaining * seconds / len(numbers) / workers,
        int(remaining * image_bytes),
        available_bytes(store),
    )


def available_bytes(store: Store) -> int | None:
    """Return how many bytes a job may write; None if unknown."""
    free = store.free_bytes()
    return None if free is None else max(0, free - _RESERVED_BYTES)


def remaining_shards(job: SamplingJob, ledger: Ledger) -> tuple[list[int], list[ShardRecord]]:
    """Return the numbers of the shards to build, and the records of the finished shards."""
    records = ledger.records()
    return [shard for shard in range(job.shards) if shard not in records], list(records.values())


def write_summary(
    renderer: ShardRenderer,
    job: SamplingJob,
    ledger: Ledger,
    records: Sequence[ShardRecord],
    seconds: float,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Write the metadata, a contact sheet and the summary, and return the summary.

    Raises StoreError, and Stopped while the contact sheet is generated.
    """
    summary: dict[str, Any] = {
        "model": f"{job.model}@{job.version}",
        "digest": job.digest,
        "images": sum(record.images for record in records),
        "bytes": sum(record.bytes for record in records),
        "failed": sorted(seed for record in records for seed in record.failed),
        "seconds": round(seconds, 3),
    }
    if job.input is not None and (problems := ledger.problems(records)):
        summary["problems"] = dict(sorted(problems.items()))
    if truncated := renderer.truncated_prompts():
        summary["truncated_prompts"] = truncated
    ledger.complete(summary, _contact_sheet(renderer, job, ledger, should_stop))
    return summary


def _contact_sheet(
    renderer: ShardRenderer, job: SamplingJob, ledger: Ledger, should_stop: Callable[[], bool]
) -> bytes | None:
    """Return the contact sheet as a PNG, empty if all images failed; None for texts."""
    if job.layout is Layout.JSONL:
        return None
    step = max(1, job.count // _CONTACT_SHEET_IMAGES)
    numbers = range(0, job.count, step)[:_CONTACT_SHEET_IMAGES]
    if job.rank is None:
        items = [renderer.items(number) for number in numbers]
    else:
        seeds = ledger.seeds(numbers)
        items = [renderer.items.selected(number, seed) for number, seed in seeds.items()]
    pixels = renderer.pixels(items, should_stop)
    image = contact_sheet(each for each in pixels if each is not None)
    sheet = io.BytesIO()
    if image is not None:
        source_type = SourceType.of_sheet(shows_inputs=job.input is not None)
        image.save(sheet, "PNG", **save_options("PNG", source_type))
    return sheet.getvalue()


def check_output(job: SamplingJob, store: Store) -> None:
    """Raise JobError if the layout needs a missing library or the output is not a folder."""
    assert_layout_supported(job.layout)
    folder = store.local
    if folder is not None and folder.exists() and not folder.is_dir():
        raise JobError(f"--out: {folder} is not a folder")
