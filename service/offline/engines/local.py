"""The engine for one machine: as many threads as the execution plan has workers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

from service.offline.image_to_image import Stopped
from service.offline.ledger import ShardRecord
from service.offline.shards import Listener, ShardBuilder

# A signal that comes just before a thread begins to wait is heard when it has waited: the main
# thread, which hears them all, never waits for longer.
_LOOK_S = 0.5


def run(
    builder: ShardBuilder,
    shards: Sequence[int],
    workers: int,
    listener: Listener,
    stopped: Callable[[], bool],
) -> list[ShardRecord]:
    """Make `shards`, `workers` at a time.

    Each thread infers and encodes: while one is in ONNX Runtime, another encodes. The first error
    of any ends them all. Raises what ShardBuilder.make raises.
    """
    failed = threading.Event()

    def make(shard: int) -> ShardRecord:
        try:
            return builder.build(shard, listener, lambda: stopped() or failed.is_set())
        except BaseException:
            failed.set()
            raise

    with ThreadPoolExecutor(workers, thread_name_prefix="ganymede-sample") as pool:
        futures = [pool.submit(make, shard) for shard in shards]
        done, waiting = wait(futures, _LOOK_S, FIRST_EXCEPTION)
        while waiting and not any(future.exception() for future in done):
            done, waiting = wait(futures, _LOOK_S, FIRST_EXCEPTION)
        for future in waiting:
            future.cancel()
    errors = [e for f in [*done, *waiting] if not f.cancelled() and (e := f.exception())]
    if errors:
        # What came first made the others stop.
        raise next((e for e in errors if not isinstance(e, Stopped)), errors[0])
    return [future.result() for future in futures]
