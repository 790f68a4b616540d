"""Runs the jobs of a service, one at a time. Jobs survive restarts.

All processes of a server accept, list and cancel jobs. One of them runs the jobs: the one that
locked the folder first. If it dies, the kernel releases the lock, and another process takes over.

The queue is a table (`JobTable`), and each job has an output folder. Batches of a job go through
the service's scheduler, in the same batch groups as requests, at low priority: requests come first,
and jobs always make progress (see `service.runtime.scheduling.waiting_jobs`).
The ledger of a job holds its progress.

Owners take turns: the next job is the oldest one of the owner who was served least recently, and a
job that has run for a while makes way for other owners after each shard.
"""

from __future__ import annotations

import json
import logging
import secrets
import shutil
import sqlite3
import threading
import time
from concurrent.futures import TimeoutError as NotDone
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from service.offline.execution import remaining_shards, write_summary
from service.offline.halving import Stopped
from service.offline.job import SamplingJob
from service.offline.ledger import SUMMARY_FILE, Ledger, ShardRecord
from service.offline.queue.folder_lock import FolderLock
from service.offline.queue.locations import (
    JobLocations,
    LocationRules,
    without_endpoints,
)
from service.offline.queue.table import JobNotFound, JobState, JobTable, Owner, QueuedJob
from service.offline.queue.uploads import Upload
from service.offline.queue.webhook_table import WebhookTable
from service.offline.shards import ShardBuilder
from service.offline.stores import DiskFull, Store
from service.offline.writers import shard_name
from service.runtime.errors import UserError
from service.runtime.generation import RunGraph
from service.runtime.models.catalog import ModelNotFound
from service.runtime.models.model import Model, ModelFailed
from service.runtime.scheduling.batches import Priority, Rows
from service.runtime.scheduling.engine import Engine, EngineState, NotReady
from service.runtime.scheduling.errors import Draining, QueueFull
from service.runtime.text.prompt_vectors import PromptEncoder

log = logging.getLogger("ganymede.jobs")

# Seconds between checks for new jobs, for the state of the engine, and whether another process has
# cancelled the job.
_POLL_S = 0.5
_RETRY_S = 0.1
# Seconds until a job is tried again that found no space on the disk.
_DISK_RETRY_S = 10.0
# Seconds between two deletions of expired results.
_SWEEP_S = 60.0
# Seconds between two deletions of uploads that no job needs.
_UPLOAD_SWEEP_S = 10.0
# Space that jobs leave free: a part of the disk, but no more than this.
_RESERVED_BYTES, _RESERVED_PART = 64 * 2**20, 20


class TooManyJobs(UserError):
    """The queue or the caller already has the maximum number of jobs, or of bytes of results."""


class _OthersTurn(Exception):
    """The job makes way for a job of another owner."""


@dataclass(frozen=True)
class QueueLimits:
    """Limits of a queue. Those of an owner apply to API keys only.

    Attributes:
        waiting: jobs that wait or run.
        waiting_per_owner: jobs of one owner that wait or run.
        bytes_per_owner: bytes of results of one owner; None means no limit.
        keep_s: seconds after which the results of ended jobs are deleted; 0 means never.
        turn_s: seconds after which a job makes way for jobs of other owners.
    """

    waiting: int = 100
    waiting_per_owner: int = 20
    bytes_per_owner: int | None = None
    keep_s: float = 0.0
    turn_s: float = 10.0


class JobQueue:
    """The jobs of one service. Thread-safe."""

    def __init__(
        self,
        folder: Path,
        engine: Engine,
        limits: QueueLimits | None = None,
        server: str | None = None,
        rules: LocationRules | None = None,
    ) -> None:
        """Store the queue and the outputs in `folder`. Files are only created by `start`.

        `rules` say where else clients may have their inputs and results; default: nowhere. All
        processes of one `server` share the queue; default: this process is the only one.
        """
        self.limits = limits or QueueLimits()
        self.table = JobTable(folder / "jobs.sqlite")
        self.webhooks = WebhookTable(folder / "jobs.sqlite")
        self.locations = JobLocations(folder, rules or LocationRules())
        self._folder = folder
        self._engine = engine
        self._wake = threading.Event()
        self._stopping = threading.Event()
        # The job that is running, and whether it was cancelled.
        self._current: str | None = None
        self._cancelled = False
        # When each owner was last served, as the number of the turn.
        self._turns: dict[str | None, int] = {}
        self._turn = 0
        self._next_sweep = self._next_upload_sweep = 0.0
        self._thread: threading.Thread | None = None
        self._lock = FolderLock(folder, server or secrets.token_hex(8))
        self._has_table = False
        self._next_check = 0.0
        # Why jobs cannot be accepted; None if they can.
        self.problem: str | None = "the service is starting"

    @property
    def is_open(self) -> bool:
        """Whether the table can be read, even if no job can be accepted."""
        return self._has_table

    def start(self) -> None:
        """Start the thread that runs jobs. It begins as soon as it can lock the folder."""
        self._thread = threading.Thread(target=self._run_jobs, name="ganymede-jobs", daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Stop the running job, which resumes after the next start. Waits at most `timeout` s."""
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout)
            if not self._thread.is_alive():
                self.table.close()

    @property
    def runs_jobs(self) -> bool:
        """Whether this process runs the jobs of its server."""
        return self._lock.is_held

    def _prepare(self) -> None:
        """Lock the folder, unless another process of this server has, and open the table.

        Raises OSError and sqlite3.Error.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        if self._lock.is_held:
            self.table.prepare(after_crash=False)
        elif not self._take_over():
            if not self._lock.is_held_by_this_server():
                raise BlockingIOError(f"another service uses the jobs folder {self._folder}")
            self.table.open()
        self._has_table = True

    def _take_over(self) -> bool:
        """Run the jobs from now on; return false if another process does. Raises as `_prepare`."""
        return self._lock.take(lambda: self.table.prepare(after_crash=True))

    def add(
        self,
        job: SamplingJob,
        owner: Owner,
        webhook: str | None = None,
        *,
        output: str | None = None,
        upload: Upload | None = None,
    ) -> QueuedJob:
        """Queue a job that writes to the URL `output`; default: to the jobs folder.

        `webhook` is the URL of its webhook. The files of `upload` are kept until the job has ended.
        Raises TooManyJobs, OSError and sqlite3.Error.
        """
        with self._lock.adding():
            self.assert_accepts(owner)
            queued = self.table.add(
                job,
                owner,
                webhook,
                output=output,
                job_id=upload.id if upload else None,
                upload_bytes=upload.bytes if upload else 0,
            )
            if upload is not None:
                upload.is_kept = True
        self._wake.set()
        return queued

    def assert_accepts(self, owner: Owner) -> None:
        """Raise TooManyJobs if a job of `owner` would exceed a limit; and sqlite3.Error."""
        limits = self.limits
        if self.table.usage().active >= limits.waiting:
            raise TooManyJobs(f"{limits.waiting} jobs are already waiting")
        if owner.id is None:
            return
        usage = self.table.usage(owner)
        if usage.active >= limits.waiting_per_owner:
            raise TooManyJobs(f"{limits.waiting_per_owner} jobs of this key are already waiting")
        if self._exceeds_quota(owner):
            raise TooManyJobs(
                f"the results of this key take {usage.bytes:,} bytes, and the limit is "
                f"{limits.bytes_per_owner:,}; delete jobs that have ended"
            )

    def get(self, job_id: str) -> QueuedJob:
        """Return a job. Raises JobNotFound and sqlite3.Error."""
        return self.table.get(job_id)

    def cancel(self, job_id: str) -> QueuedJob:
        """Cancel a job that has not ended, or delete an ended job and its files.

        Results at a URL are not deleted.

        Raises JobNotFound and sqlite3.Error.
        """
        queued = self.table.get(job_id)
        if self.table.cancel(job_id):
            # After the update of the table; otherwise the job could be started again.
            if self._current == job_id:
                self._cancelled = True
            return replace(queued, state=JobState.CANCELLED, ended=time.time())
        self._delete(job_id)
        return queued

    def _delete(self, job_id: str) -> None:
        # The files first: on a full disk the table can only be changed once there is space.
        self._delete_files(job_id)
        self.table.delete(job_id)

    def _delete_files(self, job_id: str) -> None:
        shutil.rmtree(self.folder(job_id), ignore_errors=True)
        self.locations.uploads.delete(job_id)

    def expires(self, queued: QueuedJob) -> float | None:
        """Return when the job and its files will be deleted; None if never or not yet known."""
        if queued.ended is None or not self.limits.keep_s:
            return None
        return queued.ended + self.limits.keep_s

    def folder(self, job_id: str) -> Path:
        """Return the output folder of a job in the jobs folder."""
        return self.locations.folder(job_id)

    def files(self, queued: QueuedJob) -> list[Path]:
        """Return the complete files: finished shards, and all files once the job is done.

        Empty if the job writes to a URL.
        """
        if queued.output is not None:
            return []
        folder = self.folder(queued.id)
        try:
            shards = (
                []
                if _is_finished(folder)
                else sorted(Ledger(Store(str(folder)), queued.job).records())
            )
        except FileNotFoundError:
            # The ledger was removed in the meantime: the job has ended or was deleted.
            shards = []
        if _is_finished(folder):
            return sorted(path for path in folder.iterdir() if path.is_file())
        names = [shard_name(queued.job, shard) for shard in shards]
        return [folder / name for name in names if name is not None]

    def _run_jobs(self) -> None:
        logged: str | None = None
        while not self._stopping.is_set():
            try:
                if self.problem is not None:
                    self._prepare()
                    self.problem = None
                if self._take_over():
                    self._sweep()
                    self._sweep_uploads()
                    if self._engine.state is EngineState.READY and (queued := self._next()):
                        self._run_job(queued)
                        logged = None
                        continue
            except (OSError, sqlite3.Error) as error:
                if logged != str(error):
                    log.warning("jobs cannot be accepted: %s", error)
                self.problem = logged = str(error)
            self._wake.wait(_POLL_S)
            self._wake.clear()

    def _next(self) -> QueuedJob | None:
        """Claim the next job: the oldest one of the owner who was served least recently."""
        waiting = self.table.waiting()
        if not waiting:
            return None
        # Owners without a waiting job lose their place, so that this does not grow.
        owners = {_identity(owner) for _, owner in waiting}
        self._turns = {owner: turn for owner, turn in self._turns.items() if owner in owners}
        job_id, owner = min(waiting, key=lambda each: self._turns.get(_identity(each[1]), 0))
        self._turn += 1
        self._turns[_identity(owner)] = self._turn
        self._current, self._cancelled = job_id, False
        return self.table.claim(job_id)

    def _run_job(self, queued: QueuedJob) -> None:
        job_id = queued.id
        try:
            summary = self._build(queued)
            self.table.finish(
                job_id,
                summary["images"],
                len(summary["failed"]),
                summary["bytes"],
                summary["seconds"],
            )
        except (Stopped, _OthersTurn):
            # A cancelled job is not running any more and stays as it is.
            self.table.requeue(job_id)
        except DiskFull as error:
            log.warning("job %s waits for space: %s", job_id, error)
            reason = f"waits for space on the disk: {error}"
            self.table.requeue(job_id, wait_s=_DISK_RETRY_S, reason=reason)
        except sqlite3.Error:
            # Not an error of the job, which is queued again as soon as the table can be changed.
            raise
        except (ModelNotFound, ModelFailed, UserError, OSError) as error:
            log.error("job %s failed: %s", job_id, error)
            self.table.fail(job_id, without_endpoints(str(error)))
        except Exception as error:
            log.exception("job %s failed", job_id)
            first_line = str(error).splitlines()[0] if str(error) else ""
            self.table.fail(job_id, f"{type(error).__name__}: {first_line}")
        finally:
            self._current = None
        try:
            if self.table.get(job_id).ended is not None:
                self.locations.close()
                self.locations.uploads.delete(job_id)
        except JobNotFound:
            # Deleted while its last file was being written.
            self.locations.close()
            self._delete_files(job_id)

    def _build(self, queued: QueuedJob) -> dict[str, Any]:
        """Build the remaining shards of a job, and return its summary."""
        job, started = queued.job, time.monotonic()
        model = self._model(job)
        store = self.locations.results(queued)
        ledger = Ledger(store, job)
        if ledger.is_complete():
            summary: dict[str, Any] = json.loads(store.read(SUMMARY_FILE))
            return summary
        self.assert_space()
        inputs = self.locations.inputs(queued)
        ledger.begin()
        run, encoder = self._run_graph(model), self._encoder(model)
        builder = ShardBuilder(model, job, store, run, inputs, encoder)
        shards, records = remaining_shards(job, ledger)

        def seconds() -> float:
            return queued.seconds + time.monotonic() - started

        for shard in shards:
            if self._should_stop():
                raise Stopped
            self.assert_space()
            records.append(builder.build(shard, should_stop=self._should_stop))
            self.table.progress(queued.id, *_totals(records), seconds())
            if shard != shards[-1] and self._exceeds_quota(queued.owner):
                raise TooManyJobs(
                    f"the results of this key exceed {self.limits.bytes_per_owner:,} bytes; the "
                    "files of finished shards are kept"
                )
            self._sweep()
            self._sweep_uploads()
            if time.monotonic() - started >= self.limits.turn_s and self._others_wait(queued.owner):
                raise _OthersTurn
        return write_summary(
            builder.renderer, job, ledger, records, seconds(), should_stop=self._should_stop
        )

    def _model(self, job: SamplingJob) -> Model:
        catalog = self._engine.catalog
        assert catalog is not None  # noqa: S101 - the engine is ready
        model = catalog.get(f"{job.model}@{job.version}")
        if model.digest != job.digest:
            raise ModelFailed(f"{job.model}@{job.version} has changed since the job was submitted")
        return model

    def _encoder(self, model: Model) -> PromptEncoder | None:
        """Return the encoder of prompts, for a model that takes them. Raises ModelFailed."""
        catalog = self._engine.catalog
        if model.manifest.text_input is None or catalog is None:
            return None
        encoder = catalog.encoder_of(model.manifest)
        return PromptEncoder(encoder, self._run_graph(encoder))

    def _run_graph(self, model: Model) -> RunGraph:
        """Return a function that runs graphs for the running job through the scheduler."""

        def run(role: str, feeds: Rows) -> Rows:
            while not self._should_stop():
                try:
                    job = self._engine.submit(model, feeds, role=role, priority=Priority.LOW)
                except QueueFull:
                    # Requests take precedence over jobs.
                    time.sleep(_RETRY_S)
                    continue
                except (Draining, NotReady):
                    break
                try:
                    while not self._should_stop():
                        try:
                            return job.future.result(_POLL_S)
                        except NotDone:
                            if job.future.done():
                                raise
                finally:
                    self._engine.abandon(job)
            raise Stopped

        return run

    def _should_stop(self) -> bool:
        """True if the running job was cancelled, or the service stops."""
        if not self._cancelled and time.monotonic() >= self._next_check:
            self._next_check = time.monotonic() + _POLL_S
            # Another process may have cancelled it.
            self._cancelled = self._current is not None and not self.table.is_running(self._current)
        shutting_down = self._engine.state in (EngineState.DRAINING, EngineState.STOPPED)
        return shutting_down or self._stopping.is_set() or self._cancelled

    def _others_wait(self, owner: Owner) -> bool:
        return any(_identity(other) != _identity(owner) for _, other in self.table.waiting())

    def _exceeds_quota(self, owner: Owner) -> bool:
        limit = self.limits.bytes_per_owner
        return limit is not None and owner.id is not None and self.table.usage(owner).bytes >= limit

    def assert_space(self) -> None:
        """Raise DiskFull if the disk has no space except for what jobs leave free."""
        disk = shutil.disk_usage(self._folder)
        reserved = min(_RESERVED_BYTES, disk.total // _RESERVED_PART)
        if disk.free < reserved:
            raise DiskFull(f"{disk.free:,} bytes are free, and jobs leave {reserved:,} free")

    def _sweep(self) -> None:
        """Delete expired jobs with their files, at most once a minute."""
        if not self.limits.keep_s or time.monotonic() < self._next_sweep:
            return
        self._next_sweep = time.monotonic() + _SWEEP_S
        for job_id in self.table.ended_before(time.time() - self.limits.keep_s):
            log.info("the results of job %s have expired and are deleted", job_id)
            self._delete(job_id)

    def _sweep_uploads(self) -> None:
        """Delete uploads that no job needs, every few seconds."""
        if time.monotonic() < self._next_upload_sweep:
            return
        self._next_upload_sweep = time.monotonic() + _UPLOAD_SWEEP_S
        self.locations.uploads.sweep(self.table.has_unfinished)


def _identity(owner: Owner) -> str | None:
    """Return the owner of jobs for turns; jobs of earlier versions have only a name."""
    return owner.id or owner.name


def _totals(records: list[ShardRecord]) -> tuple[int, int, int]:
    """Return the images, the failed images and the bytes of `records`."""
    return (
        sum(record.images for record in records),
        sum(len(record.failed) for record in records),
        sum(record.bytes for record in records),
    )


def _is_finished(folder: Path) -> bool:
    return (folder / SUMMARY_FILE).exists()
