"""The engine for one machine: one thread for each worker of the execution plan."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

from service.offline.halving import Stopped
from service.offline.ledger import ShardRecord
from service.offline.shards import ProgressCallback, ShardBuilder

# Maximum duration of a wait in the main thread, in seconds: Python runs signal handlers there, but
# a signal that arrives just before a wait is only handled after it.
_MAX_WAIT_S = 0.5


def run(
    builder: ShardBuilder,
    shards: Sequence[int],
    workers: int,
    on_progress: ProgressCallback,
    should_stop: Callable[[], bool],
) -> list[ShardRecord]:
    """Build `shards` with `workers` threads, and return their records.

    Threads overlap: one encodes while another is in ONNX Runtime. The first error stops all
    threads. Raises the errors of ShardBuilder.build.
    """
    failed = threading.Event()

    def build(shard: int) -> ShardRecord:
        try:
            return builder.build(shard, on_progress, lambda: should_stop() or failed.is_set())
        except BaseException:
            failed.set()
            raise

    with ThreadPoolExecutor(workers, thread_name_prefix="ganymede-sample") as pool:
        futures = [pool.submit(build, shard) for shard in shards]
        done, pending = wait(futures, _MAX_WAIT_S, FIRST_EXCEPTION)
        while pending and not any(future.exception() for future in done):
            done, pending = wait(futures, _MAX_WAIT_S, FIRST_EXCEPTION)
        for future in pending:
            future.cancel()
    errors = [e for f in [*done, *pending] if not f.cancelled() and (e := f.exception())]
    if errors:
        # Raise the error that stopped the other threads, not their Stopped.
        raise next((e for e in errors if not isinstance(e, Stopped)), errors[0])
    return [future.result() for future in futures]
