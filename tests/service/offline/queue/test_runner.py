"""The job queue without a service."""

import contextlib
import json
import sqlite3

import pytest

from service.offline.job import Layout
from service.offline.ledger import Ledger, ShardRecord
from service.offline.queue.runner import JobQueue, QueueLimits, TooManyJobs
from service.offline.queue.table import Owner
from service.offline.stores import Store
from service.runtime.scheduling.engine import Engine
from tests.support.servers import wait_until


def test_lists_all_files_if_job_ends_during_listing(job_of, tmp_path, monkeypatch):
    queue = JobQueue(tmp_path, None)
    queue._prepare()
    job = job_of(shard_size=5, layout=Layout.WEBDATASET)
    queued = queue.add(job, Owner())
    store = Store(str(queue.folder(queued.id)))
    ledger = Ledger(store, job)
    ledger.begin()
    assert queue.files(queued) == []
    for shard in range(job.shards):
        store.write(f"images-{shard:05}.tar", b"shard")
        ledger.record(ShardRecord(shard, 5, 7), [])
    shards = [f"images-{shard:05}.tar" for shard in range(job.shards)]
    assert [path.name for path in queue.files(queued)] == shards

    read = Ledger._read_record

    def complete_then_read(self, shard):
        if store.exists(".ganymede"):
            ledger.complete({"images": 10}, b"sheet")
        return read(self, shard)

    monkeypatch.setattr(Ledger, "_read_record", complete_then_read)
    names = [path.name for path in queue.files(queued)]
    assert names == ["contact-sheet.png", *shards, "job.json", "metadata.jsonl", "summary.json"]
    assert json.loads((queue.folder(queued.id) / "summary.json").read_text())["images"] == 10


def test_deleted_job_has_no_files(job_of, tmp_path):
    queue = JobQueue(tmp_path, None)
    queue._prepare()
    queued = queue.add(job_of(), Owner())
    queue.cancel(queued.id)
    queue.cancel(queued.id)
    assert queue.files(queued) == []


@pytest.fixture(scope="module")
def engine(drawn_repository):
    engine = Engine(drawn_repository, provider="cpu", queue_pixels=2**24)
    engine.start()
    yield engine
    engine.drain(30)


A, B = Owner("aaaaaaaa", "a"), Owner("bbbbbbbb", "b")


@contextlib.contextmanager
def running(folder, engine, limits=QueueLimits(), jobs=()):  # noqa: B008 - immutable
    """Start a queue with `jobs`, given as pairs of a job and its owner, and yield it with them."""
    queue = JobQueue(folder, engine, limits)
    folder.mkdir(exist_ok=True)
    queue.table.prepare(after_crash=False)
    queued = [queue.add(job, owner) for job, owner in jobs]
    queue.start()
    try:
        yield queue, queued
    finally:
        queue.stop()


def wait_for(queue, *queued, states=("done",)):
    wait_until(lambda: all(queue.get(each.id).state in states for each in queued))
    return [queue.get(each.id) for each in queued]


def test_owners_take_turns(job_of, tmp_path, engine):
    jobs = [(job_of(layout=Layout.WEBDATASET), owner) for owner in (A, A, A, B, B)]
    with running(tmp_path / "jobs", engine, jobs=jobs) as (queue, queued):
        a1, a2, a3, b1, b2 = (job.started for job in wait_for(queue, *queued))
    assert a1 < b1 < a2 < b2 < a3


def test_long_job_makes_way_for_other_owners(job_of, tmp_path, engine):
    long = job_of(count=400, shard_size=5, layout=Layout.WEBDATASET)
    short = job_of(count=5, layout=Layout.WEBDATASET)
    limits = QueueLimits(turn_s=0)
    jobs = [(long, A), (short, B)]
    with running(tmp_path / "jobs", engine, limits, jobs) as (queue, queued):
        first, second = wait_for(queue, *queued)
    assert first.started < second.started
    assert second.ended < first.ended
    assert (first.images, first.attempts) == (400, 0)


def test_limits_jobs_of_a_key(job_of, tmp_path):
    queue = JobQueue(tmp_path, None, QueueLimits(waiting=4, waiting_per_owner=2))
    queue._prepare()
    for owner in (A, A, Owner()):
        queue.add(job_of(), owner)
    with pytest.raises(TooManyJobs, match="2 jobs of this key"):
        queue.add(job_of(), A)
    queue.add(job_of(), B)
    with pytest.raises(TooManyJobs, match="4 jobs are already waiting"):
        queue.add(job_of(), Owner())


def test_limits_bytes_of_a_key(job_of, tmp_path, engine):
    jobs = [(job_of(count=20, shard_size=5, layout=Layout.WEBDATASET), A)]
    limits = QueueLimits(bytes_per_owner=100)
    with running(tmp_path / "jobs", engine, limits, jobs) as (queue, (queued,)):
        (job,) = wait_for(queue, queued, states=("failed",))
        assert "exceed 100 bytes" in job.error
        assert [path.name for path in queue.files(job)] == ["images-00000.tar"]
        with pytest.raises(TooManyJobs, match="delete jobs"):
            queue.add(jobs[0][0], A)
        queue.add(jobs[0][0], B)
        queue.cancel(queued.id)
        queue.add(jobs[0][0], A)


def test_deletes_expired_results(job_of, tmp_path, engine):
    jobs = [(job_of(layout=Layout.WEBDATASET), Owner())]
    with running(tmp_path / "jobs", engine, jobs=jobs) as (queue, queued):
        (job,) = wait_for(queue, *queued)
        assert queue.expires(job) is None
    with running(tmp_path / "jobs", engine, QueueLimits(keep_s=0.001)) as (queue, _):
        wait_until(lambda: queue.table.page(None, 10) == [])
        assert not queue.folder(job.id).exists()


def test_totals_come_from_the_output_if_the_table_lacks_them(job_of, tmp_path, engine):
    jobs = [(job_of(layout=Layout.WEBDATASET), Owner())]
    with running(tmp_path / "jobs", engine, jobs=jobs) as (queue, queued):
        (done,) = wait_for(queue, *queued)
    with contextlib.closing(sqlite3.connect(tmp_path / "jobs" / "jobs.sqlite")) as table, table:
        table.execute("UPDATE jobs SET state = 'running', images = 0, bytes = 0")
    with running(tmp_path / "jobs", engine) as (queue, _):
        (job,) = wait_for(queue, *queued)
    assert (job.images, job.bytes) == (done.images, done.bytes) == (10, done.bytes)


def test_other_work_of_a_key_is_forgotten_once_it_has_ended(job_of, tmp_path, engine):
    jobs = [(job_of(count=1), Owner(f"{i:08x}", str(i))) for i in range(5)]
    with running(tmp_path / "jobs", engine, jobs=jobs) as (queue, queued):
        wait_for(queue, *queued)
        for each in queued:
            queue.cancel(each.id)
        assert len(queue._turns) <= 1
        assert queue._cancelled is False
