"""The job queue without a service."""

import contextlib
import json
import sqlite3
import subprocess
import sys

import pytest

from service.offline.job import Layout
from service.offline.ledger import Ledger, ShardRecord
from service.offline.queue import folder_lock
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


@contextlib.contextmanager
def two_processes(folder, engine, limits=QueueLimits()):  # noqa: B008 - immutable
    """Two queues of one server, as two of its processes have them; the first one runs the jobs."""
    queues = [JobQueue(folder, engine, limits, server="one") for _ in range(2)]
    try:
        for queue in queues:
            queue.start()
            wait_until(lambda queue=queue: queue.problem is None)
        yield queues
    finally:
        for queue in queues:
            queue.stop()


def test_all_processes_of_a_server_share_the_queue(job_of, tmp_path, engine):
    with two_processes(tmp_path / "jobs", engine) as (runner, other):
        assert runner.runs_jobs
        assert not other.runs_jobs
        queued = other.add(job_of(layout=Layout.WEBDATASET), A)
        (done,) = wait_for(other, queued)
        assert other.files(done) == runner.files(done) != []


def test_other_process_cancels_and_deletes_a_running_job(job_of, tmp_path, engine):
    with two_processes(tmp_path / "jobs", engine) as (runner, other):
        queued = runner.add(job_of(count=100_000, shard_size=50_000), A)
        wait_for(other, queued, states=("running",))
        wait_until(lambda: runner.folder(queued.id).exists())
        assert other.cancel(queued.id).state == "cancelled"
        other.cancel(queued.id)
        following = other.add(job_of(layout=Layout.WEBDATASET), A)
        wait_for(other, following)
        assert not runner.folder(queued.id).exists()


def test_limits_hold_over_all_processes(job_of, tmp_path):
    queues = [JobQueue(tmp_path, None, QueueLimits(waiting_per_owner=2), "one") for _ in range(2)]
    for queue in queues:
        queue._prepare()
        queue.add(job_of(), A)
    for queue in queues:
        with pytest.raises(TooManyJobs, match="2 jobs of this key"):
            queue.add(job_of(), A)


def test_another_server_cannot_use_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_lock, "_NAMING_S", 0.2)
    first = JobQueue(tmp_path, None, server="one")
    first._prepare()
    other = JobQueue(tmp_path, None, server="two")
    with pytest.raises(BlockingIOError, match="another service"):
        other._prepare()
    assert first.runs_jobs
    assert not other.is_open


def test_another_process_takes_over_when_the_runner_dies(job_of, tmp_path, engine):
    code = (
        "import sys; from pathlib import Path; from service.offline.queue.runner import JobQueue\n"
        "queue = JobQueue(Path(sys.argv[1]), None, server='one'); queue._prepare()\n"
        "queue.table.claim(queue.table.waiting()[0][0]); print('claimed', flush=True)\n"
        "sys.stdin.read()"
    )
    folder = tmp_path / "jobs"
    folder.mkdir()
    queue = JobQueue(folder, engine, server="one")
    queue.table.prepare(after_crash=False)
    queued = queue.add(job_of(layout=Layout.WEBDATASET), A)
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as runner:
        assert runner.stdout.readline() == b"claimed\n"
        queue.start()
        try:
            wait_until(lambda: queue.problem is None)
            assert not queue.runs_jobs
            assert queue.get(queued.id).state == "running"
            runner.kill()
            (done,) = wait_for(queue, queued)
            assert done.attempts == 0
            assert queue.runs_jobs
        finally:
            runner.kill()
            queue.stop()
