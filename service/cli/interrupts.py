"""SIGINT and SIGTERM in long commands: the first stops gracefully, the second kills."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class StopSignal:
    """The signal that asked the command to stop; `number` is 0 until it arrives."""

    def __init__(self) -> None:
        self.number = 0

    def received(self) -> bool:
        """True once a signal has arrived."""
        return self.number != 0


@contextmanager
def catch_stop_signal() -> Iterator[StopSignal]:
    """Catch the first SIGINT or SIGTERM within the block; a second one has its usual effect."""
    stop = StopSignal()
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def handle(number: int, _: object) -> None:
        stop.number = number
        restore()

    for number in previous:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        restore()
