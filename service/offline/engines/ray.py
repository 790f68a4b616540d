"""The engine for a Ray cluster: Ray Data actors, each with one loaded model.

The nodes need this package and access to the output; the model's files are sent with the job. If a
node dies, its shards are built again on other nodes. That is safe: a shard is only recorded by the
actor that built it, and its bytes are always the same.
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

from service.offline.halving import Stopped
from service.offline.job import JobError, JobFailed, SamplingJob
from service.offline.ledger import ShardRecord
from service.offline.shards import ProgressCallback, ShardBuilder
from service.offline.stores import Store
from service.runtime.models.catalog import find_encoder
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import Provider, plan_for

# CPUs that each actor requests. An actor keeps a whole CPU busy, but if actors requested all CPUs,
# none would be left for Ray Data's own tasks and the job would never start.
_CPUS_PER_ACTOR = 0.9
_MAX_BLOCKS = 10_000
_CONNECT_TIMEOUT_S = 10.0


class ShardActor:
    """Builds shards on a node. Loads the model once, when it is created."""

    def __init__(
        self, files: dict[str, bytes], job: SamplingJob, store: Store, provider: str
    ) -> None:
        """Write the `files` of a model repository by their paths, and load the model of `job`."""
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        self._folder = tempfile.TemporaryDirectory(prefix="ganymede-")
        models, kind = Path(self._folder.name), Provider(provider)
        for name, content in files.items():
            (models / name).parent.mkdir(parents=True, exist_ok=True)
            (models / name).write_bytes(content)
        folder = models / job.model / job.version
        self._builder = ShardBuilder(Model(folder, kind, plan_for(kind)), job, store)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Build the shards of a batch and return the fields of their records as columns."""
        records = [self._builder.build(int(shard)) for shard in batch["shard"]]
        return {name: [asdict(record)[name] for record in records] for name in asdict(records[0])}


def run(
    model: Model,
    job: SamplingJob,
    store: Store,
    shards: Sequence[int],
    on_progress: ProgressCallback,
    should_stop: Callable[[], bool],
    address: str | None,
    workers: int = 0,
) -> list[ShardRecord]:
    """Build `shards` on the cluster at `address`; default: the environment variable RAY_ADDRESS.

    Up to `workers` actors run in parallel; 0 means one for each GPU, or for each CPU without GPUs.

    If neither is set, a cluster is started on this machine for the duration of the job.

    Raises:
        JobError: Ray is not installed, or no cluster can be reached.
        JobFailed: the job failed on the cluster.
        Stopped: `should_stop` returned true.
    """
    try:
        import ray  # noqa: PLC0415
        from ray.data import ActorPoolStrategy, DataContext, from_items  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise JobError("--engine ray needs Ray: pip install 'ganymede[ray]'") from error
    if not shards:
        return []
    owns_connection = not ray.is_initialized()
    if owns_connection:
        _connect(address)
    try:
        context = DataContext.get_current()
        context.enable_progress_bars = False
        for name in ("ray.data", "ray"):
            logging.getLogger(name).setLevel(logging.ERROR)
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        gpus = int(resources.get("GPU", 0)) if model.provider is Provider.CUDA else 0
        actors = workers or gpus or max(1, int(resources.get("CPU", 1)))
        files = repository_files(model)
        shard_rows = from_items(
            [{"shard": shard} for shard in shards],
            override_num_blocks=min(len(shards), _MAX_BLOCKS),
        )
        record_rows = shard_rows.map_batches(
            ShardActor,
            fn_constructor_args=(files, job, store, model.provider.value),
            batch_size=1,
            compute=ActorPoolStrategy(min_size=1, max_size=min(actors, len(shards))),
            num_cpus=_CPUS_PER_ACTOR,
            num_gpus=1 if gpus else None,
        )
        records = []
        for row in record_rows.iter_rows():
            record = ShardRecord(**{**row, "failed": tuple(int(seed) for seed in row["failed"])})
            records.append(record)
            on_progress(record.images, record.bytes, len(record.failed))
            if should_stop():
                raise Stopped
        return records
    except ray.exceptions.RayError as error:
        raise JobFailed(str(error).strip().splitlines()[-1]) from error
    finally:
        if owns_connection:
            ray.shutdown()


def repository_files(model: Model) -> dict[str, bytes]:
    """Return the files of a model, and of the text encoder that it needs, by their paths."""
    models = [model]
    if (spec := model.manifest.text_input) is not None:
        models.append(find_encoder(model.folder.parent.parent, spec, model.provider))
    return {
        f"{each.manifest.name}/{each.manifest.version}/{path.name}": path.read_bytes()
        for each in models
        for path in each.folder.iterdir()
        if path.is_file()
    }


def _connect(address: str | None) -> None:
    import ray  # noqa: PLC0415

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = address or os.environ.get("RAY_ADDRESS") or None
    host, colon, port = (address or "").rpartition("//")[2].rpartition(":")
    try:
        if colon and port.isdigit():
            # Fail early: Ray itself would retry for minutes.
            socket.create_connection((host, int(port)), timeout=_CONNECT_TIMEOUT_S).close()
        if address is None:
            # "local" because Ray would otherwise join a cluster that another process started on
            # this machine, and lose its nodes when that process ends.
            ray.init("local", include_dashboard=False, log_to_driver=False, configure_logging=False)
        else:
            ray.init(address, log_to_driver=False, configure_logging=False)
    except Exception as error:  # Ray raises plain exceptions, such as when a node does not start.
        message = str(error).strip() or type(error).__name__
        reason = getattr(error, "strerror", None) or message.splitlines()[0]
        failure = "--engine ray: Ray does not start on this machine"
        if address is not None:
            failure = f"--address: cannot connect to a Ray cluster at {address}"
        raise JobError(f"{failure}: {reason}") from error
