"""The table of jobs: an SQLite file that holds the state of each job, its owner and its totals.

The job itself is stored as JSON. Progress within a job is in its ledger; the totals in the table
are copies. All methods raise sqlite3.Error, for example if the disk is full.
"""

# ruff: noqa: S608 - statements are composed of constants of this module; values are parameters

from __future__ import annotations

import secrets
import sqlite3
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from service.offline.job import SamplingJob
from service.offline.queue import webhook_table
from service.offline.queue.webhook_table import JobWebhook
from service.runtime.errors import UserError

# How often the process may end while a job runs before the job counts as the cause.
MAX_ATTEMPTS = 3
_TABLE = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, owner TEXT, state TEXT NOT NULL, job TEXT NOT NULL, created REAL NOT NULL,
    started REAL, ended REAL, images INTEGER NOT NULL DEFAULT 0, failed INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0, error TEXT, seconds REAL NOT NULL DEFAULT 0
)
"""
# Columns that tables of earlier versions lack.
_LATER_COLUMNS = {
    "owner_id": "TEXT",
    "attempts": "INTEGER NOT NULL DEFAULT 0",
    "retry_at": "REAL NOT NULL DEFAULT 0",
    "output": "TEXT",
    "upload_bytes": "INTEGER NOT NULL DEFAULT 0",
}
_COLUMNS = (
    "id, owner, owner_id, state, job, created, started, ended, images, failed, bytes, error, "
    "seconds, attempts, output, upload_bytes"
)
# The jobs of an `Owner`. Earlier versions stored only the name of the key. The job of a revoked key
# with the same name is older than the key.
_OWNED = """
    CASE WHEN :id IS NULL THEN owner_id IS NULL AND owner IS NULL
    ELSE owner_id = :id OR (owner_id IS NULL AND owner = :name AND created >= :since) END
"""
_ACTIVE = "state IN ('queued', 'running')"
# What a job takes in the jobs folder: its results, and what was uploaded for it until it ends.
_STORED = f"IIF(output IS NULL, bytes, 0) + IIF({_ACTIVE}, upload_bytes, 0)"


class JobState(StrEnum):
    """The state of a job."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class JobNotFound(UserError):
    """The job does not exist, or the caller has no access to it."""


@dataclass(frozen=True)
class Owner:
    """Who submits and may see jobs: an API key, or everyone if `id` is None.

    `since` is the time of the key's creation, in seconds since the epoch.
    """

    id: str | None = None
    name: str | None = None
    since: float = 0.0


@dataclass(frozen=True)
class JobVersion:
    """What changes as a job waits, runs and ends."""

    state: JobState
    images: int
    failed: int
    attempts: int
    error: str | None

    def __str__(self) -> str:
        """Return a short text that is equal for equal versions, in all processes."""
        reason = f".{zlib.crc32(self.error.encode()):08x}" if self.error else ""
        return f"{self.state}.{self.images}.{self.failed}.{self.attempts}{reason}"


@dataclass(frozen=True)
class QueuedJob:
    """A job in the queue. Times are in seconds since the epoch; `seconds` is its running time.

    `attempts` counts how often it was started without finishing a shard since. `output` is the URL
    of the results; None if they are in the jobs folder. `upload_bytes` is the size of the files
    that were uploaded for it.
    """

    id: str
    owner: Owner
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
    attempts: int
    output: str | None = None
    upload_bytes: int = 0
    webhook: JobWebhook | None = None

    @property
    def version(self) -> JobVersion:
        """Equal for equal states of the job."""
        return JobVersion(self.state, self.images, self.failed, self.attempts, self.error)

    def belongs_to(self, owner: Owner) -> bool:
        """Whether `owner` submitted the job; the condition `_OWNED`."""
        if owner.id is None:
            return self.owner.id is None and self.owner.name is None
        if self.owner.id is None:
            return self.owner.name == owner.name and self.created >= owner.since
        return self.owner.id == owner.id


@dataclass(frozen=True)
class Usage:
    """How many jobs wait or run, and the bytes that all jobs take in the jobs folder."""

    active: int
    bytes: int


class JobTable:
    """The jobs of one service. Thread-safe."""

    def __init__(self, path: Path) -> None:
        """Use the table in the file `path`, which `prepare` creates."""
        self._path = path
        # Keeps SQLite's files beside the table open, which the last connection removes and the next
        # one creates: on a full disk, the table could then not even be read.
        self._keeper: sqlite3.Connection | None = None

    def close(self) -> None:
        """Close the file. The next use of the table opens it again."""
        if self._keeper is not None:
            self._keeper.close()
            self._keeper = None

    def open(self) -> None:
        """Keep the table open, which another process has prepared."""
        if self._keeper is None:
            keeper = sqlite3.connect(self._path, check_same_thread=False)
            keeper.execute("SELECT COUNT(*) FROM jobs").fetchall()
            self._keeper = keeper

    def prepare(self, *, after_crash: bool) -> None:
        """Create or update the table, and queue jobs again that were running.

        With `after_crash`, the process that ran them has ended: a job whose last attempt this was
        has failed.
        """
        with self._open() as database:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute(_TABLE)
            database.execute(webhook_table.TABLE)
        self.open()
        with self._open() as database:
            existing = {row[1] for row in database.execute("PRAGMA table_info(jobs)")}
            for name, kind in _LATER_COLUMNS.items():
                if name not in existing:
                    database.execute(f"ALTER TABLE jobs ADD COLUMN {name} {kind}")
            if after_crash:
                reason = (
                    f"the service ended {MAX_ATTEMPTS} times while this job was running and before "
                    "it finished a shard; it may need more memory than the machine has"
                )
                database.execute(
                    "UPDATE jobs SET state = 'failed', error = ?, ended = ? "
                    "WHERE state = 'running' AND attempts >= ?",
                    (reason, time.time(), MAX_ATTEMPTS),
                )
                database.execute("UPDATE jobs SET state = 'queued' WHERE state = 'running'")
            else:
                database.execute(
                    "UPDATE jobs SET state = 'queued', attempts = MAX(0, attempts - 1) "
                    "WHERE state = 'running'"
                )

    def add(
        self,
        job: SamplingJob,
        owner: Owner,
        webhook: str | None = None,
        *,
        output: str | None = None,
        job_id: str | None = None,
        upload_bytes: int = 0,
    ) -> QueuedJob:
        """Queue a job, with the URL of its webhook. `job_id` is random by default."""
        job_id = job_id or secrets.token_hex(8)
        values = (job_id, owner.name, owner.id, job.model_dump_json(), time.time())
        with self._open() as database:
            database.execute(
                "INSERT INTO jobs (id, owner, owner_id, state, job, created, output, upload_bytes) "
                "VALUES (?, ?, ?, 'queued', ?, ?, ?, ?)",
                (*values, output, upload_bytes),
            )
            if webhook is not None:
                webhook_table.insert(database, job_id, webhook)
        return self.get(job_id)

    def get(self, job_id: str) -> QueuedJob:
        """Return a job. Raises JobNotFound."""
        rows = self._jobs("WHERE id = :id", {"id": job_id})
        if not rows:
            raise JobNotFound(f"no job {job_id[:50]!r}")
        return rows[0]

    def find(self, job_ids: Sequence[str]) -> dict[str, QueuedJob]:
        """Return jobs by their ids. Those that do not exist are left out."""
        values = {f"id{i}": job_id for i, job_id in enumerate(job_ids)}
        marks = ", ".join(f":{name}" for name in values)
        return {job.id: job for job in self._jobs(f"WHERE id IN ({marks})", values)}

    def versions(self, job_ids: Sequence[str]) -> dict[str, JobVersion]:
        """Return the versions of jobs by their ids, without reading the jobs themselves."""
        marks = ", ".join("?" * len(job_ids))
        with self._open() as database:
            rows = database.execute(
                "SELECT id, state, images, failed, attempts, error FROM jobs "
                f"WHERE id IN ({marks})",
                job_ids,
            )
            return {job_id: JobVersion(JobState(state), *rest) for job_id, state, *rest in rows}

    def is_running(self, job_id: str) -> bool:
        """Return whether a job is running, and was neither cancelled nor deleted."""
        with self._open() as database:
            row = database.execute("SELECT state FROM jobs WHERE id = ?", (job_id,)).fetchone()
            return row is not None and row[0] == JobState.RUNNING

    def has_unfinished(self, job_id: str) -> bool:
        """Return whether a job exists that waits or runs."""
        with self._open() as database:
            query = f"SELECT 1 FROM jobs WHERE id = ? AND {_ACTIVE}"
            return database.execute(query, (job_id,)).fetchone() is not None

    def page(
        self, owner: Owner | None, limit: int, after: tuple[float, str] | None = None
    ) -> list[QueuedJob]:
        """Return up to `limit` jobs of `owner`, or of all owners if it is None, newest first.

        `after` is the creation time and the id of the last job of the previous page.
        """
        conditions = ["1"]
        values: dict[str, Any] = {"limit": limit}
        if owner is not None:
            conditions.append(f"({_OWNED})")
            values |= _owner_values(owner)
        if after is not None:
            conditions.append("(created, id) < (:created, :after)")
            values |= {"created": after[0], "after": after[1]}
        return self._jobs(
            f"WHERE {' AND '.join(conditions)} ORDER BY created DESC, id DESC LIMIT :limit", values
        )

    def waiting(self) -> list[tuple[str, Owner]]:
        """Return the id and the owner of each job that can start now, oldest first."""
        with self._open() as database:
            rows = database.execute(
                "SELECT id, owner_id, owner FROM jobs WHERE state = 'queued' AND retry_at <= ? "
                "ORDER BY created, rowid",
                (time.time(),),
            )
            return [(job_id, Owner(key_id, name)) for job_id, key_id, name in rows]

    def ended_before(self, moment: float) -> list[str]:
        """Return the ids of the jobs that ended before `moment`.

        Without those whose webhook may still be delivered.
        """
        last_attempt = time.time() - 2 * sum(webhook_table.PAUSES_S)
        with self._open() as database:
            rows = database.execute(
                f"SELECT id FROM jobs WHERE NOT {_ACTIVE} AND ended < ? AND (ended < ? OR id NOT "
                "IN (SELECT job FROM webhooks WHERE state = 'pending'))",
                (moment, last_attempt),
            )
            return [job_id for (job_id,) in rows]

    def usage(self, owner: Owner | None = None) -> Usage:
        """Return the jobs and bytes of `owner`; of all owners if it is None."""
        query = f"SELECT COALESCE(SUM({_ACTIVE}), 0), COALESCE(SUM({_STORED}), 0) FROM jobs"
        with self._open() as database:
            if owner is None:
                return Usage(*database.execute(query).fetchone())
            values = _owner_values(owner)
            return Usage(*database.execute(f"{query} WHERE {_OWNED}", values).fetchone())

    def claim(self, job_id: str) -> QueuedJob | None:
        """Mark a queued job as running, and count the attempt; None if it is not queued."""
        claimed = self._update(
            job_id,
            "state = 'running', started = COALESCE(started, ?), attempts = attempts + 1, "
            "error = NULL",
            time.time(),
            condition="state = 'queued'",
        )
        return self.get(job_id) if claimed else None

    def requeue(self, job_id: str, *, wait_s: float = 0.0, reason: str | None = None) -> None:
        """Queue a running job again, which was interrupted through no fault of its own.

        It does not start again for `wait_s` seconds; `reason` explains why.
        """
        self._update(
            job_id,
            "state = 'queued', attempts = MAX(0, attempts - 1), retry_at = ?, error = ?",
            time.time() + wait_s,
            reason,
            condition="state = 'running'",
        )

    def progress(self, job_id: str, images: int, failed: int, size: int, seconds: float) -> None:
        """Record the totals of a job that has finished a shard."""
        self._update(
            job_id,
            "images = ?, failed = ?, bytes = ?, seconds = ?, attempts = 0",
            *(images, failed, size, seconds),
        )

    def finish(self, job_id: str, images: int, failed: int, size: int, seconds: float) -> None:
        """Record a running job as done, with its totals."""
        self._update(
            job_id,
            "images = ?, failed = ?, bytes = ?, seconds = ?, error = NULL, "
            "state = 'done', ended = ?",
            *(images, failed, size, seconds, time.time()),
            condition="state = 'running'",
        )

    def fail(self, job_id: str, error: str) -> None:
        """Record a running job as failed."""
        assignments = "state = 'failed', error = ?, ended = ?"
        self._update(job_id, assignments, error, time.time(), condition="state = 'running'")

    def cancel(self, job_id: str) -> bool:
        """Record a job as cancelled. Returns false if it has ended."""
        return self._update(
            job_id, "state = 'cancelled', ended = ?", time.time(), condition=_ACTIVE
        )

    def delete(self, job_id: str) -> None:
        """Remove a job, with its webhook."""
        with self._open() as database:
            database.execute("DELETE FROM jobs WHERE id = ?", (job_id,))
            webhook_table.delete(database, job_id)

    def _update(self, job_id: str, assignments: str, *values: object, condition: str = "1") -> bool:
        """Update a job if it meets `condition`. Returns whether it did."""
        with self._open() as database:
            statement = f"UPDATE jobs SET {assignments} WHERE id = ? AND {condition}"
            return bool(database.execute(statement, (*values, job_id)).rowcount)

    def _jobs(self, clauses: str, values: dict[str, Any]) -> list[QueuedJob]:
        with self._open() as database:
            rows = database.execute(f"SELECT {_COLUMNS} FROM jobs {clauses}", values)
            jobs = [_from_row(row) for row in rows]
            webhooks = webhook_table.find(database, [job.id for job in jobs])
            return [replace(job, webhook=webhooks.get(job.id)) for job in jobs]

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._path, timeout=10)) as database, database:
            yield database


def _owner_values(owner: Owner) -> dict[str, Any]:
    return {"id": owner.id, "name": owner.name, "since": owner.since}


def _from_row(row: Sequence[Any]) -> QueuedJob:
    job_id, name, key_id, state, job, *rest = row
    parsed = SamplingJob.model_validate_json(job)
    return QueuedJob(job_id, Owner(key_id, name), JobState(state), parsed, *rest)
