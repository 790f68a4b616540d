"""The job queue without a service."""

import json

from service.offline.job import Layout
from service.offline.ledger import Ledger, ShardRecord
from service.offline.queue import JobQueue
from service.offline.stores import Store


def test_lists_all_files_if_job_ends_during_listing(job_of, tmp_path, monkeypatch):
    queue = JobQueue(tmp_path, None)
    queue._prepare()
    job = job_of(shard_size=5, layout=Layout.WEBDATASET)
    queued = queue.add(job, None)
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
    queued = queue.add(job_of(), None)
    queue.cancel(queued.id)
    queue.cancel(queued.id)
    assert queue.files(queued) == []
