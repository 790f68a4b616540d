"""Builds one shard: renders its images, writes them, and records the shard in the ledger."""

from __future__ import annotations

from collections.abc import Callable

from service.offline.inputs import JobInputs
from service.offline.job import SamplingJob
from service.offline.ledger import Ledger, ShardRecord
from service.offline.rendering import ShardRenderer
from service.offline.stores import Store
from service.offline.writers import open_shard_writer
from service.runtime.generation import RunGraph
from service.runtime.models.model import Model
from service.runtime.text.prompt_vectors import PromptEncoder

# Called as images are written, with the number of images, their bytes, and the number of failures.
ProgressCallback = Callable[[int, int, int], None]


class ShardBuilder:
    """Builds the shards of a job, in any order. Thread-safe."""

    def __init__(
        self,
        model: Model,
        job: SamplingJob,
        store: Store,
        run: RunGraph | None = None,
        inputs: JobInputs | None = None,
        encoder: PromptEncoder | None = None,
    ) -> None:
        """Render images with `model`. The other arguments are those of `ShardRenderer`."""
        self.renderer = ShardRenderer(model, job, run, inputs, encoder)
        self._classes = model.manifest.classes
        self._job = job
        self._store = store
        self._ledger = Ledger(store, job)

    def build(
        self,
        shard: int,
        on_progress: ProgressCallback = lambda *_: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> ShardRecord:
        """Build a shard. Raises StoreError, or Stopped; the shard is then not recorded."""
        lines, failed, size = [], [], 0
        problems: dict[str, str] = {}
        with open_shard_writer(self._job, self._classes, self._store, shard) as writer:
            for image in self.renderer.shard(shard, should_stop):
                item = image.item
                if image.file is None:
                    failed.append(item.seed)
                    if item.input_file is not None and image.problem is not None:
                        problems[item.input_file] = image.problem
                    on_progress(0, 0, 1)
                    continue
                location = writer.add(item, image.file)
                source = {} if item.input_file is None else {"input_file": item.input_file}
                lines.append({**location, "number": item.number, **source, **item.parameters})
                size += len(image.file)
                on_progress(1, len(image.file), 0)
        record = ShardRecord(shard, len(lines), size, tuple(failed))
        self._ledger.record(record, lines, problems)
        return record
