"""Parallel work on blocks of an array, one thread per CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from service.runtime.onnx.machine import usable_cpus

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_parallel(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int | None = None
) -> Iterator[Result]:
    """Yield ``function(item)`` for each item, in order, computed by `workers` threads.

    The default is one worker per CPU. NumPy's matrix products run on one thread each in the
    meantime: they would only take CPU time from the other workers. Suited to functions that spend
    their time in NumPy or ONNX Runtime, which release the interpreter lock.
    """
    from threadpoolctl import threadpool_limits  # noqa: PLC0415 - of the extra `quality`

    with (
        threadpool_limits(1, user_api="blas"),
        ThreadPoolExecutor(workers or usable_cpus()) as pool,
    ):
        yield from pool.map(function, items)
