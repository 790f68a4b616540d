"""The queue of a service's jobs, without a service."""

import json

from service.offline.job import Layout
from service.offline.ledger import Ledger, ShardRecord
from service.offline.queue import JobQueue
from service.offline.stores import Store


def test_files_of_a_job_that_ends_while_they_are_listed_are_all_there(
    job_of, tmp_path, monkeypatch
):
    queue = JobQueue(tmp_path, None)
    queue._prepare()
    job = job_of(shard_size=5, layout=Layout.WEBDATASET)
    ticket = queue.add(job, None)
    store = Store(str(queue.folder(ticket.id)))
    ledger = Ledger(store, job)
    ledger.begin()
    assert queue.files(ticket) == []
    for shard in range(job.shards):
        store.write(f"images-{shard:05}.tar", b"a shard")
        ledger.record(ShardRecord(shard, 5, 7), [])
    shards = [f"images-{shard:05}.tar" for shard in range(job.shards)]
    assert [path.name for path in queue.files(ticket)] == shards

    read = Ledger._record

    def ended_meanwhile(self, shard):
        if store.exists(".ganymede"):
            ledger.complete({"images": 10}, b"a sheet")
        return read(self, shard)

    monkeypatch.setattr(Ledger, "_record", ended_meanwhile)
    names = [path.name for path in queue.files(ticket)]
    assert names == ["contact-sheet.png", *shards, "job.json", "metadata.jsonl", "summary.json"]
    assert json.loads((queue.folder(ticket.id) / "summary.json").read_text())["images"] == 10


def test_a_job_that_is_forgotten_while_it_is_listed_has_no_files(job_of, tmp_path):
    queue = JobQueue(tmp_path, None)
    queue._prepare()
    ticket = queue.add(job_of(), None)
    queue.cancel(ticket.id)
    queue.cancel(ticket.id)
    assert queue.files(ticket) == []
