"""Isolates the items that make a batch fail, by running it in halves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Stopped(Exception):
    """The job was asked to stop."""


def run_in_halves(
    items: Sequence[Item],
    run: Callable[[Sequence[Item]], Sequence[Result]],
    report: Callable[[Item, Exception], None],
) -> list[Result | None]:
    """Return the result of each item; None for an item that also fails on its own.

    A failing batch is split in half until the failing items are isolated, as in the scheduler; each
    of them is passed to `report`. This also handles batches that exceed the memory. Raises Stopped.
    """
    try:
        return list(run(items))
    except Stopped:
        raise
    except Exception as error:  # noqa: BLE001 - a graph may raise anything
        if len(items) == 1:
            report(items[0], error)
            return [None]
    middle = len(items) // 2
    return [
        *run_in_halves(items[:middle], run, report),
        *run_in_halves(items[middle:], run, report),
    ]
