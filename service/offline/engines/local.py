"""The engine for one machine: one thread for each worker of the execution plan."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

from service.offline.halving import Stopped
from service.offline.ledger import ShardRecord
from service.offline.shards import ProgressCallback, ShardBuilder

# Python runs signal handlers in the main thread, between waits: a signal that arrives just before a
# wait begins is handled after it. So no wait is longer than this.
_MAX_WAIT_S = 0.5


def run(
    builder: ShardBuilder,
    shards: Sequence[int],
    workers: int,
    on_progress: ProgressCallback,
    should_stop: Callable[[], bool],
) -> list[ShardRecord]:
    """Build `shards` with `workers` threads, and return their records.

    Each thread infers and encodes: while one is in ONNX Runtime, another encodes. The first error
    stops all threads. Raises what ShardBuilder.build raises.
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
        # Report the error that stopped the other threads, not that they were stopped.
        raise next((e for e in errors if not isinstance(e, Stopped)), errors[0])
    return [future.result() for future in futures]
