"""The table of webhooks, in the SQLite file of the jobs: the URL of each job that has one, and
whether it has been notified that the job has ended.

A webhook is due when its job has ended; no other step makes it so, so that none can be lost between
the end of a job and its delivery. All methods raise sqlite3.Error.
"""

# ruff: noqa: S608 - statements are composed of constants of this module; values are parameters

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

TABLE = """
CREATE TABLE IF NOT EXISTS webhooks (
    job TEXT PRIMARY KEY, url TEXT NOT NULL, state TEXT NOT NULL DEFAULT 'pending',
    attempts INTEGER NOT NULL DEFAULT 0, retry_at REAL, delivered REAL, error TEXT
)
"""
# Seconds between the attempts, as the specification of Standard Webhooks suggests: ten attempts
# within three days.
PAUSES_S = (
    *(5.0, 5 * 60.0, 30 * 60.0),
    *(hours * 3600.0 for hours in (2, 5, 10, 14, 20, 24)),
)
MAX_ATTEMPTS = len(PAUSES_S) + 1
_COLUMNS = ", ".join(
    f"webhooks.{name}"
    for name in ("job", "url", "state", "attempts", "retry_at", "delivered", "error")
)


class WebhookState(StrEnum):
    """Whether the receiver has accepted a webhook."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


@dataclass(frozen=True)
class JobWebhook:
    """The webhook of a job. Times are in seconds since the epoch.

    Attributes:
        attempts: how often it was sent, or is being sent.
        retry_at: when it is sent again, unless the attempt that is under way succeeds; None before
            the first attempt.
        error: why the last attempt failed.
    """

    job: str
    url: str
    state: WebhookState
    attempts: int
    retry_at: float | None
    delivered: float | None
    error: str | None

    @property
    def id(self) -> str:
        """The id of the message, the same for all attempts, also over restarts."""
        return f"msg_{self.job}"


def insert(database: sqlite3.Connection, job_id: str, url: str) -> None:
    """Add the webhook of a job, in the transaction that adds the job."""
    database.execute("INSERT INTO webhooks (job, url) VALUES (?, ?)", (job_id, url))


def delete(database: sqlite3.Connection, job_id: str) -> None:
    """Remove the webhook of a job, if it has one, in the transaction that removes the job."""
    database.execute("DELETE FROM webhooks WHERE job = ?", (job_id,))


def find(database: sqlite3.Connection, job_ids: Sequence[str]) -> dict[str, JobWebhook]:
    """Return the webhooks of jobs by the id of the job. Jobs without one are left out."""
    marks = ", ".join("?" * len(job_ids))
    return {each.job: each for each in _read(database, f"WHERE job IN ({marks})", job_ids)}


def _read(
    database: sqlite3.Connection, clauses: str, values: Sequence[object]
) -> Iterator[JobWebhook]:
    query = f"SELECT {_COLUMNS} FROM webhooks {clauses}"
    for job, url, state, *rest in database.execute(query, values):
        yield JobWebhook(job, url, WebhookState(state), *rest)


class WebhookTable:
    """The webhooks of the jobs of one service. Thread-safe."""

    def __init__(self, path: Path) -> None:
        """Use the file `path` of a table of jobs, which `JobTable.prepare` creates."""
        self._path = path

    def due(self, limit: int) -> list[JobWebhook]:
        """Return up to `limit` webhooks that can be sent now, those that wait longest first."""
        clauses = (
            "JOIN jobs ON jobs.id = webhooks.job WHERE webhooks.state = 'pending' "
            "AND jobs.state NOT IN ('queued', 'running') AND COALESCE(webhooks.retry_at, 0) <= ? "
            "ORDER BY COALESCE(webhooks.retry_at, jobs.ended) LIMIT ?"
        )
        with self._open() as database:
            return list(_read(database, clauses, (time.time(), limit)))

    def begin(self, webhook: JobWebhook, pause_s: float) -> bool:
        """Count an attempt before it is made; the next one is `pause_s` seconds later.

        So a process that ends during the attempt neither loses it nor repeats it at once. Returns
        false if the webhook was removed or changed in the meantime.
        """
        return self._update(
            "attempts = attempts + 1, retry_at = ?",
            time.time() + pause_s,
            condition="job = ? AND state = 'pending' AND attempts = ?",
            values=(webhook.job, webhook.attempts),
        )

    def deliver(self, job_id: str) -> None:
        """Record that the receiver has accepted a webhook: it is never sent again."""
        self._update(
            "state = 'delivered', delivered = ?, retry_at = NULL, error = NULL",
            time.time(),
            values=(job_id,),
        )

    def postpone(self, job_id: str, error: str, pause_s: float) -> None:
        """Record why an attempt failed, after which the next one is `pause_s` seconds from now."""
        self._update("error = ?, retry_at = ?", error, time.time() + pause_s, values=(job_id,))

    def fail(self, job_id: str, error: str) -> None:
        """Record that a webhook is not sent again, although no receiver has accepted it."""
        self._update(
            "state = 'failed', error = COALESCE(?, error), retry_at = NULL",
            error,
            values=(job_id,),
        )

    def _update(
        self,
        assignments: str,
        *assigned: object,
        values: Sequence[object],
        condition: str = "job = ?",
    ) -> bool:
        with self._open() as database:
            statement = f"UPDATE webhooks SET {assignments} WHERE {condition}"
            return bool(database.execute(statement, (*assigned, *values)).rowcount)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._path, timeout=10)) as database, database:
            yield database
