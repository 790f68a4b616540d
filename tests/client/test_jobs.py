"""Jobs of the real service: submitted, waited for, cancelled and downloaded."""

import itertools
import tarfile
import threading

import pytest

from ganymede_client import (
    Client,
    JobCancelled,
    JobNotFound,
    UnexpectedResponse,
    WaitTimedOut,
)
from ganymede_client.flows import Sink
from ganymede_client.wire.calls import Reply
from tests.support.cutting_proxy import cutting_proxy


@pytest.fixture(scope="module")
def done(service):
    """A job that is done, with two shards and its other files."""
    with Client(service.url) as client:
        job = client.submit_job("biggan-flowers", count=60, classes="balanced", shard_size=40)
        return client.wait_for_job(job)


def test_job_reports_progress_until_it_is_done(client):
    seen = []
    job = client.submit_job("cgan-fashion", count=30, seed=5, classes=["sneaker", 8])
    job = client.wait_for_job(job, progress=seen.append)
    assert seen[-1] == job
    assert all(before != after for before, after in itertools.pairwise(seen))
    assert (job.state, job.images, job.model) == ("done", 30, "cgan-fashion@1")
    assert str(job).startswith("done: 30 of 30 images")
    assert client.job(job.id) == job
    assert job.id in {each.id for each in client.jobs()}


def test_events_of_a_job_lead_to_its_end(client):
    job = client.submit_job("cgan-fashion", count=200, shard_size=50)
    events = list(client.job_events(job))
    assert [event.kind for event in events].count("end") == 1
    assert (events[-1].kind, events[-1].job.state) == ("end", "done")
    images = [event.job.images for event in events]
    assert images == sorted(images)
    assert str(events[-1]).startswith("done: 200 of 200 images")
    # A client that knows the end gets nothing; one that knows nothing gets the end.
    assert list(client.job_events(job, events[-1].id)) == []
    assert [event.kind for event in client.job_events(job.id)] == ["end"]
    client.delete_job(job)
    with pytest.raises(JobNotFound):
        next(client.job_events(job))


def test_events_continue_after_a_broken_connection(service, client):
    # So long that it cannot end before the connection is cut.
    job = client.submit_job("cgan-fashion", count=500_000, shard_size=50)
    events = []
    with (
        cutting_proxy(service.url, cuts=[900, 0]) as proxy,
        Client(proxy.url) as cut,
    ):
        for event in cut.job_events(job):
            events.append(event)
            if len(proxy.requests) >= 3 and event.kind != "end":
                client.cancel_job(job)
    assert len(proxy.requests) >= 3
    assert (events[-1].kind, events[-1].job.state) == ("end", "cancelled")
    assert len({event.id for event in events}) == len(events)
    client.delete_job(job)


def test_pages_of_jobs_are_followed(client, done):
    client.wait_for_job(client.submit_job("gan-mnist", count=1))
    listed, page = [], client.list_jobs(limit=1)
    while True:
        assert len(page.jobs) == 1
        listed += page.jobs
        if page.after is None:
            break
        page = client.list_jobs(limit=1, after=page.after)
    assert {job.id for job in listed} >= {done.id}
    assert len(listed) >= 2


def test_cancelled_job_ends_the_wait(client):
    job = client.submit_job("biggan-flowers", count=500_000)
    with pytest.raises(WaitTimedOut) as late:
        client.wait_for_job(job, timeout=0)
    assert late.value.job.id == job.id
    thread = threading.Timer(0.5, lambda: client.cancel_job(job))
    thread.start()
    with pytest.raises(JobCancelled, match="cancelled") as raised:
        client.wait_for_job(job, timeout=60)
    thread.join()
    assert raised.value.job.state == "cancelled"
    # Ended: it is not deleted.
    assert client.cancel_job(job).state == "cancelled"
    assert client.job(job).state == "cancelled"
    client.delete_job(job)
    with pytest.raises(JobNotFound):
        client.job(job)


def test_downloaded_files_are_complete(client, done, tmp_path):
    reports = []
    paths = client.download_job(done, tmp_path / "data", progress=reports.append)
    assert [path.name for path in paths] == [file.name for file in done.files]
    for file, path in zip(done.files, paths, strict=True):
        assert path.read_bytes() == client.job_file(done, file.name)
    with tarfile.open(tmp_path / "data" / "images-00001.tar") as shard:
        assert sum(name.endswith(".png") for name in shard.getnames()) == 20
    assert reports[-1].bytes == reports[-1].total_bytes == sum(file.bytes for file in done.files)
    assert {report.name for report in reports} == {file.name for file in done.files}
    assert " MB" in str(reports[-1])


def test_interrupted_download_continues_where_it_ended(service, client, done, tmp_path):
    shard = max(done.files, key=lambda file: file.bytes)
    # The first connection gets the state of the job and a part of the files.
    with cutting_proxy(service.url, cuts=[shard.bytes // 2, shard.bytes // 2]) as proxy:
        with Client(proxy.url) as cut:
            paths = cut.download_job(done, tmp_path)
        assert any(b"range: bytes=" in request.lower() for request in proxy.requests)
    for file, path in zip(done.files, paths, strict=True):
        assert path.read_bytes() == client.job_file(done, file.name)
    assert not list(tmp_path.glob("*.part"))


def test_later_call_continues_a_download(client, done, tmp_path):
    client.download_job(done, tmp_path)
    shard = tmp_path / "images-00000.tar"
    content = shard.read_bytes()
    shard.unlink()
    (tmp_path / ".images-00000.tar.part").write_bytes(content[:1000])
    reports = []
    client.download_job(done.id, tmp_path, progress=reports.append)
    assert shard.read_bytes() == content
    assert {report.name for report in reports} == {"images-00000.tar"}
    assert not list(tmp_path.glob(".*.part"))


def test_files_of_others_are_never_replaced(client, done, tmp_path):
    (tmp_path / "images-00000.tar").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"images-00000\.tar exists"):
        client.download_job(done, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["images-00000.tar"]
    other = client.wait_for_job(client.submit_job("gan-mnist", count=1))
    client.download_job(other, tmp_path / "other")
    with pytest.raises(FileExistsError, match=f"files of the job {other.id}"):
        client.download_job(done, tmp_path / "other")


def test_wrong_range_is_not_appended(tmp_path):
    path = tmp_path / "part"
    path.write_bytes(b"abc")
    reply = Reply("http://service", 206, {"content-range": "bytes 0-9/10"}, b"")
    sink = Sink(path, lambda _: None, 3)
    with pytest.raises(UnexpectedResponse, match="asked for the bytes from 3"), sink.opened(reply):
        pass
    assert path.read_bytes() == b"abc"
