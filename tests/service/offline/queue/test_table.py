"""The table of jobs: attempts, owners, pages, and tables of earlier versions."""

import contextlib
import sqlite3

import pytest

from service.offline.queue.table import JobState, JobTable, Owner

OLD_TABLE = """
CREATE TABLE jobs (
    id TEXT PRIMARY KEY, owner TEXT, state TEXT NOT NULL, job TEXT NOT NULL, created REAL NOT NULL,
    started REAL, ended REAL, images INTEGER NOT NULL DEFAULT 0, failed INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0, error TEXT, seconds REAL NOT NULL DEFAULT 0
)
"""
A = Owner("aaaaaaaa", "a")


@pytest.fixture
def table(tmp_path):
    table = JobTable(tmp_path / "jobs.sqlite")
    table.prepare(after_crash=True)
    return table


def test_gives_up_after_three_crashes_without_progress(table, job_of):
    job = table.add(job_of(), A)
    for attempt in (1, 2, 3):
        assert table.claim(job.id).attempts == attempt
        table.prepare(after_crash=True)
    failed = table.get(job.id)
    assert failed.state is JobState.FAILED
    assert failed.ended is not None
    assert "ended 3 times while this job was running" in failed.error
    assert table.claim(job.id) is None


def test_progress_resets_attempts(table, job_of):
    job = table.add(job_of(), A)
    for _ in range(5):
        table.claim(job.id)
        table.progress(job.id, 1, 0, 10, 1.0)
        table.prepare(after_crash=True)
    assert table.get(job.id).state is JobState.QUEUED


def test_interruptions_are_not_attempts(table, job_of):
    job = table.add(job_of(), A)
    for _ in range(5):
        table.claim(job.id)
        table.requeue(job.id)
        table.claim(job.id)
        # The table could not be changed for a while.
        table.prepare(after_crash=False)
    assert table.get(job.id).attempts == 0


def test_waits_before_it_tries_again(table, job_of):
    job = table.add(job_of(), A)
    table.claim(job.id)
    table.requeue(job.id, wait_s=60, reason="no space")
    assert table.waiting() == []
    assert (table.get(job.id).state, table.get(job.id).error) == (JobState.QUEUED, "no space")


def test_cancelled_job_stays_cancelled(table, job_of):
    job = table.add(job_of(), A)
    table.claim(job.id)
    assert table.cancel(job.id)
    table.finish(job.id, 10, 0, 10, 1.0)
    table.fail(job.id, "error")
    table.requeue(job.id)
    assert table.get(job.id).state is JobState.CANCELLED
    assert not table.cancel(job.id)


def test_pages_list_every_job_once(table, job_of):
    jobs = [table.add(job_of(), A) for _ in range(7)]
    table.add(job_of(), Owner())
    listed, after = [], None
    while page := table.page(A, 3, after):
        listed += [job.id for job in page]
        after = (page[-1].created, page[-1].id)
        # The last job of a page may be deleted before the next page is requested.
        table.delete(page[-1].id)
    assert sorted(listed) == sorted(job.id for job in jobs)
    assert listed[0] == jobs[-1].id


def test_jobs_belong_to_the_id_of_the_key(table, job_of):
    job = table.add(job_of(), A)
    namesake = Owner("cccccccc", "a", since=job.created + 1)
    assert table.page(A, 9) == [job]
    assert job.belongs_to(A)
    assert table.page(namesake, 9) == table.page(Owner(), 9) == []
    assert not job.belongs_to(namesake)
    assert not job.belongs_to(Owner())
    assert table.usage(A).active == 1
    assert table.usage(namesake).active == 0


def test_reads_tables_of_earlier_versions(tmp_path, job_of):
    path = tmp_path / "jobs.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute(OLD_TABLE)
        for job_id, owner in (("01", "a"), ("02", None)):
            database.execute(
                "INSERT INTO jobs (id, owner, state, job, created) VALUES (?, ?, 'running', ?, 5)",
                (job_id, owner, job_of().model_dump_json()),
            )
    table = JobTable(path)
    table.prepare(after_crash=True)
    table.prepare(after_crash=True)
    same = Owner("aaaaaaaa", "a", since=4)
    # A key that took the name of a revoked one does not see its jobs.
    later = Owner("bbbbbbbb", "a", since=6)
    assert [job.id for job in table.page(same, 9)] == ["01"]
    assert [job.id for job in table.page(later, 9)] == []
    assert [job.id for job in table.page(Owner(), 9)] == ["02"]
    assert [table.get("01").belongs_to(owner) for owner in (same, later, Owner())] == [
        True,
        False,
        False,
    ]
    assert table.get("01").state is JobState.QUEUED
