"""The queue of batch jobs in a running service. Jobs run one after another and survive restarts.

The queue is an SQLite table, and each job has an output folder. Batches of a job go through the
service's scheduler, in the same batch groups as requests, so that neither starves the other. The
ledger of a job holds its progress; the table only holds its state.
"""

from __future__ import annotations

import logging
import secrets
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from service.offline.execution import remaining_shards, write_summary
from service.offline.halving import Stopped
from service.offline.job import SamplingJob
from service.offline.ledger import SUMMARY_FILE, Ledger, ShardRecord
from service.offline.shards import ShardBuilder
from service.offline.stores import Store
from service.offline.writers import shard_name
from service.runtime.errors import UserError
from service.runtime.generation import RunGraph
from service.runtime.models.catalog import ModelNotFound
from service.runtime.models.model import Model, ModelFailed
from service.runtime.scheduling.batches import Rows
from service.runtime.scheduling.engine import Engine, EngineState, NotReady
from service.runtime.scheduling.scheduler import Draining, QueueFull

log = logging.getLogger("ganymede.jobs")

_TABLE = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, owner TEXT, state TEXT NOT NULL, job TEXT NOT NULL, created REAL NOT NULL,
    started REAL, ended REAL, images INTEGER NOT NULL DEFAULT 0, failed INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0, error TEXT, seconds REAL NOT NULL DEFAULT 0
)
"""
_COLUMNS = "id, owner, state, job, created, started, ended, images, failed, bytes, error, seconds"
# Seconds between checks for new jobs and for the state of the engine.
_POLL_S = 0.5
_RETRY_S = 0.1


class JobState(StrEnum):
    """The state of a job."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class JobNotFound(UserError):
    """The job does not exist, or the caller has no access to it."""


class TooManyJobs(UserError):
    """The queue already has the maximum number of waiting jobs."""


@dataclass(frozen=True)
class QueuedJob:
    """A job in the queue. Times are in seconds since the epoch; `seconds` is its running time."""

    id: str
    owner: str | None
    state: JobState
    job: SamplingJob
    created: float
    started: float | None
    ended: float | None
    images: int
    failed: int
    bytes: int
    error: str | None
    seconds: float


class JobQueue:
    """The jobs of one service. Thread-safe."""

    def __init__(self, folder: Path, engine: Engine, *, max_waiting: int = 100) -> None:
        """Store the queue and the outputs in `folder`. Files are only created by `start`."""
        self._folder = folder
        self._engine = engine
        self._max_waiting = max_waiting
        self._database = folder / "jobs.sqlite"
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._cancelled: set[str] = set()
        self._thread: threading.Thread | None = None
        self._lock: Any = None
        # Why jobs cannot be accepted; None if they can.
        self.problem: str | None = "the service is starting"

    def start(self) -> None:
        """Start the thread that runs jobs. It begins as soon as it can lock the folder."""
        self._thread = threading.Thread(target=self._run_jobs, name="ganymede-jobs", daemon=True)
        self._thread.start()

    def _prepare(self) -> None:
        """Lock the folder and open the table. Raises OSError and sqlite3.Error."""
        import fcntl  # noqa: PLC0415

        self._folder.mkdir(parents=True, exist_ok=True)
        if self._lock is None:
            lock = (self._folder / "lock").open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                raise BlockingIOError(
                    f"another service uses the jobs folder {self._folder}"
                ) from None
            self._lock = lock
        with self._open() as database:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute(_TABLE)
            # Jobs that were running when an earlier process ended.
            database.execute("UPDATE jobs SET state = 'queued' WHERE state = 'running'")

    def stop(self, timeout: float = 5.0) -> None:
        """Stop the running job, which resumes after the next start. Waits at most `timeout` s."""
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout)

    def add(self, job: SamplingJob, owner: str | None) -> QueuedJob:
        """Queue a job. Raises TooManyJobs."""
        job_id = secrets.token_hex(8)
        with self._open() as database:
            count = "SELECT COUNT(*) FROM jobs WHERE state IN ('queued', 'running')"
            if database.execute(count).fetchone()[0] >= self._max_waiting:
                raise TooManyJobs(f"{self._max_waiting} jobs are already waiting")
            database.execute(
                "INSERT INTO jobs (id, owner, state, job, created) VALUES (?, ?, 'queued', ?, ?)",
                (job_id, owner, job.model_dump_json(), time.time()),
            )
        self._wake.set()
        return self.get(job_id)

    def get(self, job_id: str) -> QueuedJob:
        """Return a job. Raises JobNotFound."""
        with self._open() as database:
            query = f"SELECT {_COLUMNS} FROM jobs WHERE id = ?"  # noqa: S608 - a constant
            row = database.execute(query, (job_id,)).fetchone()
        if row is None:
            raise JobNotFound(f"no job {job_id[:50]!r}")
        return _from_row(row)

    def all(self) -> list[QueuedJob]:
        """Return all jobs, newest first."""
        with self._open() as database:
            query = f"SELECT {_COLUMNS} FROM jobs ORDER BY created DESC, rowid DESC"  # noqa: S608
            return [_from_row(row) for row in database.execute(query)]

    def cancel(self, job_id: str) -> QueuedJob:
        """Cancel a job that has not ended, or delete an ended job and its files.

        Raises JobNotFound.
        """
        queued = self.get(job_id)
        now = time.time()
        with self._open() as database:
            is_active = database.execute(
                "UPDATE jobs SET state = 'cancelled', ended = ? "
                "WHERE id = ? AND state IN ('queued', 'running')",
                (now, job_id),
            ).rowcount
            if not is_active:
                database.execute("DELETE FROM jobs WHERE id = ?", (job_id,))
        if is_active:
            # After the update of the table; otherwise the job could be started again.
            self._cancelled.add(job_id)
            return replace(queued, state=JobState.CANCELLED, ended=now)
        shutil.rmtree(self.folder(job_id), ignore_errors=True)
        return queued

    def folder(self, job_id: str) -> Path:
        """Return the output folder of a job."""
        return self._folder / job_id

    def files(self, queued: QueuedJob) -> list[Path]:
        """Return the complete files: finished shards, and all files once the job is done."""
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
        while not self._stopping.is_set():
            try:
                if self.problem is not None:
                    self._prepare()
                    self.problem = None
                if self._engine.state is EngineState.READY and (queued := self._next()):
                    self._run_job(queued)
                    continue
            except (OSError, sqlite3.Error) as error:
                if self.problem != str(error):
                    log.warning("jobs cannot be accepted: %s", error)
                self.problem = str(error)
            self._wake.wait(_POLL_S)
            self._wake.clear()

    def _next(self) -> QueuedJob | None:
        with self._open() as database:
            query = f"SELECT {_COLUMNS} FROM jobs WHERE state = 'queued' "  # noqa: S608
            row = database.execute(query + "ORDER BY created, rowid LIMIT 1").fetchone()
        return None if row is None else _from_row(row)

    def _run_job(self, queued: QueuedJob) -> None:
        job_id = queued.id
        with self._open() as database:
            claimed = database.execute(
                "UPDATE jobs SET state = 'running', started = COALESCE(started, ?) "
                "WHERE id = ? AND state = 'queued'",
                (time.time(), job_id),
            ).rowcount
        if not claimed:
            return
        started = time.monotonic()
        try:
            self._build(queued, started)
        except Stopped:
            # Either cancelled, which is already recorded in the table, or interrupted by a
            # shutdown.
            self._update(job_id, "state = CASE state WHEN 'running' THEN 'queued' ELSE state END")
        except (ModelNotFound, ModelFailed, UserError, OSError) as error:
            log.error("job %s failed: %s", job_id, error)
            self._fail(job_id, str(error))
        except Exception as error:
            log.exception("job %s failed", job_id)
            first_line = str(error).splitlines()[0] if str(error) else ""
            self._fail(job_id, f"{type(error).__name__}: {first_line}")
        finally:
            self._cancelled.discard(job_id)

    def _build(self, queued: QueuedJob, started: float) -> None:
        job = queued.job
        model = self._model(job)
        store = Store(str(self.folder(queued.id)))
        ledger = Ledger(store, job)
        if not ledger.is_complete():
            ledger.begin()
            builder = ShardBuilder(model, job, store, self._run_graph(model, queued.id))
            shards, records = remaining_shards(job, ledger)
            earlier = queued.seconds
            for shard in shards:
                if self._should_stop(queued.id):
                    raise Stopped
                records.append(
                    builder.build(shard, should_stop=lambda: self._should_stop(queued.id))
                )
                self._progress(queued.id, records, earlier + time.monotonic() - started)
            seconds = earlier + time.monotonic() - started
            write_summary(builder.renderer, job, ledger, records, seconds)
        self._update(
            queued.id,
            "state = CASE state WHEN 'running' THEN 'done' ELSE state END, ended = ?",
            time.time(),
        )

    def _model(self, job: SamplingJob) -> Model:
        catalog = self._engine.catalog
        assert catalog is not None  # noqa: S101 - the engine is ready
        model = catalog.get(f"{job.model}@{job.version}")
        if model.digest != job.digest:
            raise ModelFailed(f"{job.model}@{job.version} has changed since the job was submitted")
        return model

    def _run_graph(self, model: Model, job_id: str) -> RunGraph:
        """Return a function that runs graphs for a job through the scheduler."""

        def run(role: str, feeds: Rows) -> Rows:
            while not self._should_stop(job_id):
                try:
                    job = self._engine.submit(model, feeds, role=role)
                except QueueFull:
                    # Requests take precedence over jobs.
                    time.sleep(_RETRY_S)
                    continue
                except (Draining, NotReady):
                    break
                try:
                    return job.future.result()
                finally:
                    self._engine.abandon(job)
            raise Stopped

        return run

    def _should_stop(self, job_id: str) -> bool:
        shutting_down = self._engine.state in (EngineState.DRAINING, EngineState.STOPPED)
        return shutting_down or self._stopping.is_set() or job_id in self._cancelled

    def _fail(self, job_id: str, error: str) -> None:
        assignments = (
            "state = CASE state WHEN 'running' THEN 'failed' ELSE state END, error = ?, ended = ?"
        )
        self._update(job_id, assignments, error, time.time())

    def _progress(self, job_id: str, records: list[ShardRecord], seconds: float) -> None:
        self._update(
            job_id,
            "images = ?, failed = ?, bytes = ?, seconds = ?",
            sum(record.images for record in records),
            sum(len(record.failed) for record in records),
            sum(record.bytes for record in records),
            seconds,
        )

    def _update(self, job_id: str, assignments: str, *values: object) -> None:
        with self._open() as database:
            # `assignments` is a constant of this module.
            database.execute(f"UPDATE jobs SET {assignments} WHERE id = ?", (*values, job_id))  # noqa: S608

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._database, timeout=10)) as database, database:
            yield database


def _is_finished(folder: Path) -> bool:
    return (folder / SUMMARY_FILE).exists()


def _from_row(row: tuple[Any, ...]) -> QueuedJob:
    job_id, owner, state, job, *rest = row
    return QueuedJob(job_id, owner, JobState(state), SamplingJob.model_validate_json(job), *rest)
