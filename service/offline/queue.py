"""Jobs that a service does beside its requests, one after the other, and goes on with after a stop.

The queue is a table of SQLite, and each job has a folder for what it makes. A job's batches go
through the service's own scheduler, in the lanes of the requests, so that neither starves the
other. What is done of a job is in its ledger; the table only says what there is to do.
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

from service.offline.execution import finish, remaining_shards
from service.offline.image_to_image import Stopped
from service.offline.job import SamplingJob
from service.offline.ledger import SUMMARY_FILE, Ledger, ShardRecord
from service.offline.shards import ShardBuilder
from service.offline.stores import Store
from service.offline.writers import shard_name
from service.runtime.errors import UserError
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
# How often the runner looks whether there is something to do, and whether the engine is ready.
_LOOK_S = 0.5
_RETRY_S = 0.1


class JobState(StrEnum):
    """What has become of a job."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class JobNotFound(UserError):
    """There is no such job, or none for who asks."""


class TooManyJobs(UserError):
    """So many jobs wait already."""


@dataclass(frozen=True)
class QueuedJob:
    """A job in the queue; times are seconds since the epoch, `seconds` those it has run."""

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
    """The jobs of one service. All methods may be called from any thread."""

    def __init__(self, folder: Path, engine: Engine, *, most_waiting: int = 100) -> None:
        """Keep the queue and what it makes in `folder`, once it is started."""
        self._folder = folder
        self._engine = engine
        self._most_waiting = most_waiting
        self._database = folder / "jobs.sqlite"
        self._wake = threading.Event()
        self._ended = threading.Event()
        self._cancelled: set[str] = set()
        self._thread: threading.Thread | None = None
        self._lock: Any = None
        # Why no jobs are taken; None when they are.
        self.problem: str | None = "the service is starting"

    def start(self) -> None:
        """Begin to do what there is to do, as soon as the folder is there for this process."""
        self._thread = threading.Thread(target=self._work, name="ganymede-jobs", daemon=True)
        self._thread.start()

    def _prepare(self) -> None:
        """Take the folder and what is left in it. Raises OSError and sqlite3.Error."""
        import fcntl  # noqa: PLC0415

        self._folder.mkdir(parents=True, exist_ok=True)
        if self._lock is None:
            lock = (self._folder / "lock").open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                raise BlockingIOError(f"another service keeps its jobs in {self._folder}") from None
            self._lock = lock
        with self._open() as database:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute(_TABLE)
            # Of a process that ended, or was ended, in the middle.
            database.execute("UPDATE jobs SET state = 'queued' WHERE state = 'running'")

    def stop(self, timeout: float = 5.0) -> None:
        """Leave what is under way to the next start."""
        self._ended.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout)

    def add(self, job: SamplingJob, owner: str | None) -> QueuedJob:
        """Queue a job. Raises TooManyJobs."""
        name = secrets.token_hex(8)
        with self._open() as database:
            count = "SELECT COUNT(*) FROM jobs WHERE state IN ('queued', 'running')"
            if database.execute(count).fetchone()[0] >= self._most_waiting:
                raise TooManyJobs(f"{self._most_waiting} jobs wait already")
            database.execute(
                "INSERT INTO jobs (id, owner, state, job, created) VALUES (?, ?, 'queued', ?, ?)",
                (name, owner, job.model_dump_json(), time.time()),
            )
        self._wake.set()
        return self.get(name)

    def get(self, name: str) -> QueuedJob:
        """Return a job. Raises JobNotFound."""
        with self._open() as database:
            query = f"SELECT {_COLUMNS} FROM jobs WHERE id = ?"  # noqa: S608 - a constant
            row = database.execute(query, (name,)).fetchone()
        if row is None:
            raise JobNotFound(f"no job {name[:50]!r}")
        return _ticket(row)

    def all(self) -> list[QueuedJob]:
        """Return all jobs, the newest first."""
        with self._open() as database:
            query = f"SELECT {_COLUMNS} FROM jobs ORDER BY created DESC, rowid DESC"  # noqa: S608
            return [_ticket(row) for row in database.execute(query)]

    def cancel(self, name: str) -> QueuedJob:
        """End a job that has not ended; forget one that has, with its files."""
        ticket = self.get(name)
        now = time.time()
        with self._open() as database:
            going_on = database.execute(
                "UPDATE jobs SET state = 'cancelled', ended = ? "
                "WHERE id = ? AND state IN ('queued', 'running')",
                (now, name),
            ).rowcount
            if not going_on:
                database.execute("DELETE FROM jobs WHERE id = ?", (name,))
        if going_on:
            # Not before the table says so, from which the runner would take the job once more.
            self._cancelled.add(name)
            return replace(ticket, state=JobState.CANCELLED, ended=now)
        shutil.rmtree(self.folder(name), ignore_errors=True)
        return ticket

    def folder(self, name: str) -> Path:
        """Return where a job's files are."""
        return self._folder / name

    def files(self, ticket: QueuedJob) -> list[Path]:
        """Return the files that are whole: the shards that are done, and at the end the rest."""
        folder = self.folder(ticket.id)
        try:
            done = (
                []
                if _is_finished(folder)
                else sorted(Ledger(Store(str(folder)), ticket.job).done())
            )
        except FileNotFoundError:
            # The ledger went while it was read: with the job's end, or with the job.
            done = []
        if _is_finished(folder):
            return sorted(path for path in folder.iterdir() if path.is_file())
        named = [shard_name(ticket.job, shard) for shard in done]
        return [folder / name for name in named if name is not None]

    def _work(self) -> None:
        while not self._ended.is_set():
            try:
                if self.problem is not None:
                    self._prepare()
                    self.problem = None
                if self._engine.state is EngineState.READY and (ticket := self._next()):
                    self._do(ticket)
                    continue
            except (OSError, sqlite3.Error) as error:
                if self.problem != str(error):
                    log.warning("no jobs are taken: %s", error)
                self.problem = str(error)
            self._wake.wait(_LOOK_S)
            self._wake.clear()

    def _next(self) -> QueuedJob | None:
        with self._open() as database:
            query = f"SELECT {_COLUMNS} FROM jobs WHERE state = 'queued' "  # noqa: S608
            row = database.execute(query + "ORDER BY created, rowid LIMIT 1").fetchone()
        return None if row is None else _ticket(row)

    def _do(self, ticket: QueuedJob) -> None:
        name = ticket.id
        with self._open() as database:
            begun = database.execute(
                "UPDATE jobs SET state = 'running', started = COALESCE(started, ?) "
                "WHERE id = ? AND state = 'queued'",
                (time.time(), name),
            ).rowcount
        if not begun:
            return
        began = time.monotonic()
        try:
            self._make(ticket, began)
        except Stopped:
            # Cancelled, which is noted already, or to go on with at the next start.
            self._note(name, "state = CASE state WHEN 'running' THEN 'queued' ELSE state END")
        except (ModelNotFound, ModelFailed, UserError, OSError) as error:
            log.error("job %s failed: %s", name, error)
            self._fail(name, str(error))
        except Exception as error:
            log.exception("job %s failed", name)
            said = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            self._fail(name, said)
        finally:
            self._cancelled.discard(name)

    def _make(self, ticket: QueuedJob, began: float) -> None:
        job = ticket.job
        model = self._model(job)
        store = Store(str(self.folder(ticket.id)))
        ledger = Ledger(store, job)
        if not ledger.is_complete():
            ledger.begin()
            builder = ShardBuilder(model, job, store, self._run(model, ticket.id))
            todo, records = remaining_shards(job, ledger)
            before = ticket.seconds
            for shard in todo:
                if self._stopped(ticket.id):
                    raise Stopped
                records.append(builder.build(shard, stopped=lambda: self._stopped(ticket.id)))
                self._progress(ticket.id, records, before + time.monotonic() - began)
            seconds = before + time.monotonic() - began
            finish(builder.renderer, job, ledger, records, seconds)
        self._note(
            ticket.id,
            "state = CASE state WHEN 'running' THEN 'done' ELSE state END, ended = ?",
            time.time(),
        )

    def _model(self, job: SamplingJob) -> Model:
        catalog = self._engine.catalog
        assert catalog is not None  # noqa: S101 - the engine is ready
        model = catalog.get(f"{job.model}@{job.version}")
        if model.digest != job.digest:
            raise ModelFailed(f"{job.model}@{job.version} is not what it was when this was asked")
        return model

    def _run(self, model: Model, name: str) -> Any:
        """Return what runs graphs for a job: by the scheduler, among the requests."""

        def run(role: str, feeds: Rows) -> Rows:
            while not self._stopped(name):
                try:
                    job = self._engine.submit(model, feeds, role=role)
                except QueueFull:
                    # Requests go first: they have somebody who waits.
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

    def _stopped(self, name: str) -> bool:
        gone = self._engine.state in (EngineState.DRAINING, EngineState.STOPPED)
        return gone or self._ended.is_set() or name in self._cancelled

    def _fail(self, name: str, why: str) -> None:
        ended = (
            "state = CASE state WHEN 'running' THEN 'failed' ELSE state END, error = ?, ended = ?"
        )
        self._note(name, ended, why, time.time())

    def _progress(self, name: str, records: list[ShardRecord], seconds: float) -> None:
        self._note(
            name,
            "images = ?, failed = ?, bytes = ?, seconds = ?",
            sum(record.images for record in records),
            sum(len(record.failed) for record in records),
            sum(record.bytes for record in records),
            seconds,
        )

    def _note(self, name: str, what: str, *values: object) -> None:
        with self._open() as database:
            # `what` is one of this module's own.
            database.execute(f"UPDATE jobs SET {what} WHERE id = ?", (*values, name))  # noqa: S608

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._database, timeout=10)) as database, database:
            yield database


def _is_finished(folder: Path) -> bool:
    return (folder / SUMMARY_FILE).exists()


def _ticket(row: tuple[Any, ...]) -> QueuedJob:
    name, owner, state, job, *rest = row
    return QueuedJob(name, owner, JobState(state), SamplingJob.model_validate_json(job), *rest)
