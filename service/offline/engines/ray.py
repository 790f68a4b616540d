"""The engine for a Ray cluster: Ray Data's actors, each with one loaded model.

The cluster needs this package on its nodes and an output that all of them reach; the model goes
there with the job. A shard whose node died is made again by another: nobody but the shard's builder
notes it as done, and what it writes is the same.
"""

from __future__ import annotations

import logging
import os
import socket
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from service.offline.image_to_image import Stopped
from service.offline.job import JobError, JobFailed, SamplingJob
from service.offline.ledger import ShardRecord
from service.offline.shards import Listener, ShardBuilder
from service.offline.stores import Store
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import Provider, plan_for

# Of a CPU, for an actor that keeps one busy. Actors that ask for all there is leave none for Ray
# Data's own tasks, and the job would wait for ever.
_CPUS = 0.9
_BLOCKS = 10_000
_CONNECT_S = 10.0


class ShardActor:
    """What an actor does: load the model once, then make one shard after the other."""

    def __init__(
        self, files: dict[str, bytes], job: SamplingJob, store: Store, provider: str
    ) -> None:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        self._folder = tempfile.TemporaryDirectory(prefix="ganymede-")
        folder = Path(self._folder.name) / job.model / job.version
        folder.mkdir(parents=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        kind = Provider(provider)
        self._builder = ShardBuilder(Model(folder, kind, plan_for(kind)), job, store)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Make the shards of a batch."""
        records = [self._builder.build(int(shard)) for shard in batch["shard"]]
        return {name: [asdict(record)[name] for record in records] for name in asdict(records[0])}


def run(
    model: Model,
    job: SamplingJob,
    store: Store,
    shards: Sequence[int],
    listener: Listener,
    stopped: Callable[[], bool],
    address: str | None,
) -> list[ShardRecord]:
    """Make `shards` on the cluster at `address`, or on one that is started here.

    Raises JobError where there is no Ray or no cluster, Stopped, and JobFailed for what failed
    there.
    """
    try:
        import ray  # noqa: PLC0415
        from ray.data import ActorPoolStrategy, DataContext, from_items  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise JobError("--engine ray needs Ray: pip install 'ganymede[ray]'") from error
    if not shards:
        return []
    begun = not ray.is_initialized()
    if begun:
        _connect(address)
    try:
        context = DataContext.get_current()
        context.enable_progress_bars = False
        for name in ("ray.data", "ray"):
            logging.getLogger(name).setLevel(logging.ERROR)
        there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        gpus = int(there.get("GPU", 0)) if model.provider is Provider.CUDA else 0
        actors = gpus or max(1, int(there.get("CPU", 1)))
        files = {path.name: path.read_bytes() for path in model.folder.iterdir() if path.is_file()}
        rows = from_items(
            [{"shard": shard} for shard in shards],
            override_num_blocks=min(len(shards), _BLOCKS),
        )
        made = rows.map_batches(
            ShardActor,
            fn_constructor_args=(files, job, store, model.provider.value),
            batch_size=1,
            compute=ActorPoolStrategy(min_size=1, max_size=min(actors, len(shards))),
            num_cpus=_CPUS,
            num_gpus=1 if gpus else None,
        )
        records = []
        for row in made.iter_rows():
            record = ShardRecord(**{**row, "failed": tuple(int(seed) for seed in row["failed"])})
            records.append(record)
            listener(record.images, record.bytes, len(record.failed))
            if stopped():
                raise Stopped
        return records
    except ray.exceptions.RayError as error:
        raise JobFailed(str(error).strip().splitlines()[-1]) from error
    finally:
        if begun:
            ray.shutdown()


def _connect(address: str | None) -> None:
    import ray  # noqa: PLC0415

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    host, colon, port = (address or "").rpartition("//")[2].rpartition(":")
    try:
        if colon and port.isdigit():
            # Ray itself would try for minutes.
            socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
        ray.init(address=address, log_to_driver=False, configure_logging=False)
    except (OSError, ValueError, RuntimeError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise JobError(f"--address: no Ray cluster answers at {address}: {reason}") from error
