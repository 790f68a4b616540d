"""One shard, from its number to a file in its place and a note that it is done."""

from __future__ import annotations

from collections.abc import Callable

from service.offline.image_to_image import RunGraph
from service.offline.job import SamplingJob
from service.offline.ledger import Ledger, ShardRecord
from service.offline.rendering import ShardRenderer
from service.offline.stores import Store
from service.offline.writers import open_shard_writer, shard_name
from service.runtime.models.model import Model

# Is told of pictures as they are made: how many, their bytes, and how many could not be made.
Listener = Callable[[int, int, int], None]


class ShardBuilder:
    """Makes the shards of a job, any of them, in any order. Threads may share one."""

    def __init__(
        self, model: Model, job: SamplingJob, store: Store, run: RunGraph | None = None
    ) -> None:
        """Make pictures with `model`; `run` runs its graphs, in place of `Model.run`."""
        self.renderer = ShardRenderer(model, job, run)
        self._classes = model.manifest.classes
        self._job = job
        self._store = store
        self._ledger = Ledger(store, job)

    def build(
        self,
        shard: int,
        listener: Listener = lambda *_: None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> ShardRecord:
        """Make a shard. Raises StoreError, and Stopped: then nothing of it counts."""
        lines, failed, size = [], [], 0
        container = shard_name(self._job, shard)
        with open_shard_writer(self._job, self._classes, self._store, shard) as writer:
            for painted in self.renderer.shard(shard, stopped):
                item = painted.item
                if painted.file is None:
                    failed.append(item.seed)
                    listener(0, 0, 1)
                    continue
                place = writer.add(item, painted.file)
                # A column of that name tells Hugging Face's datasets which picture is meant.
                where = {"file_name": place} if container is None else {"member": place}
                inside = {} if container is None else {"shard": container}
                made_of = {} if item.input_file is None else {"input_file": item.input_file}
                about = {"number": item.number, **made_of, **item.parameters}
                lines.append({**inside, **where, **about})
                size += len(painted.file)
                listener(1, len(painted.file), 0)
        record = ShardRecord(shard, len(lines), size, tuple(failed))
        self._ledger.note(record, lines)
        return record
