"""Progress of long work on standard error: bars on a terminal, lines in a log file.

A log file gets no control characters, and few lines: the first after ten seconds, further ones at
intervals that double up to ten minutes.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, Protocol, TextIO

from service.runtime.formatting import duration, format_size

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

Unit = Literal["items", "bytes"]

# Seconds until the first line in a log file, and the longest interval between two.
INTERVALS = (10.0, 600.0)
# Seconds between two updates of a bar.
_UPDATE_S = 0.1


class StageProgress(Protocol):
    """Shows the progress of work that has one stage or several. Thread-safe."""

    def __call__(self, stage: str, done: int, total: int | None, note: str = "") -> None:
        """Show that `done` of `total` items of `stage` are done; a `total` of None is unknown.

        `note` is shown behind the numbers.
        """


class GrowingInterval:
    """Times in a long task at which a user wants to see something, at first often, later rarely.

    The first time is `first` seconds after the start; every further interval is twice as long, up
    to `longest` seconds.
    """

    def __init__(self, first: float, longest: float) -> None:
        self._interval, self._longest = first, longest
        self._next = time.monotonic() + first

    def due(self) -> bool:
        """Return whether the time has come, and if so, start the next interval."""
        if time.monotonic() < self._next:
            return False
        self._interval = min(2 * self._interval, self._longest)
        self.restart()
        return True

    def restart(self) -> None:
        """Start the current interval again, because something has just been shown."""
        self._next = time.monotonic() + self._interval


def is_terminal(stream: TextIO) -> bool:
    """Return whether bars can be drawn: `stream` is a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


@contextmanager
def stage_progress(unit: Unit = "items", stream: TextIO | None = None) -> Iterator[StageProgress]:
    """Show the progress of the block on `stream` (default: standard error).

    On a terminal, every stage has a bar; all of them disappear at the end of the block.
    """
    stream = stream or sys.stderr
    if not is_terminal(stream):
        yield _Lines(stream, unit)
        return
    from rich.console import Console  # noqa: PLC0415 - slow to import, and not always needed

    bars = _Bars(Console(file=stream), unit)
    with bars.progress:
        yield bars


class _Stage:
    """The speed of a stage, from its first number on."""

    def __init__(self, first: int, unit: Unit) -> None:
        self._first, self._unit = first, unit
        self._started = time.monotonic()
        self.shown = False

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def status(self, done: int, total: int | None, note: str) -> str:
        """Return `done` of `total`, the rate, the remaining time, and the note."""
        rate = (done - self._first) / max(self.seconds, 1e-9)
        parts = [self.count(done)]
        if total:
            parts = [f"{self.count(done)} of {self.count(total)} ({done / total:.0%})"]
        if self._unit == "bytes" and rate > 0:
            parts.append(f"{format_size(rate)}/s")
        elif rate >= 0.1:
            parts.append(f"{rate:,.{0 if rate >= 10 else 1}f}/s")
        if total and rate > 0 and done < total:
            parts.append(f"ETA {duration((total - done) / rate)}")
        return ", ".join([*parts, *filter(None, [note])])

    def count(self, number: int) -> str:
        return format_size(number) if self._unit == "bytes" else f"{number:,}"


class _Lines:
    """Progress in a file: a line at growing intervals, and one at the end of a long stage."""

    def __init__(self, stream: TextIO, unit: Unit) -> None:
        self._stream, self._unit = stream, unit
        self._interval = GrowingInterval(*INTERVALS)
        self._stages: dict[str, _Stage] = {}
        self._lock = threading.Lock()

    def __call__(self, stage: str, done: int, total: int | None, note: str = "") -> None:
        with self._lock:
            state = self._stages.setdefault(stage, _Stage(done, self._unit))
            if total and done >= total:
                del self._stages[stage]
                if state.shown:
                    self._print(f"{stage}: {state.count(done)} in {duration(state.seconds)}")
            elif self._interval.due():
                state.shown = True
                self._print(f"{stage}: {state.status(done, total, note)}")

    def _print(self, line: str) -> None:
        # Names of files may contain control characters.
        text = "".join(each if each.isprintable() else "?" for each in line)
        print(text, file=self._stream, flush=True)


class _Bars:
    """Progress on a terminal: a bar for each stage."""

    def __init__(self, console: Console, unit: Unit) -> None:
        from rich.progress import BarColumn, Progress, TextColumn  # noqa: PLC0415

        self._unit = unit
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(24),
            TextColumn("{task.fields[status]}", markup=False),
            console=console,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._stages: dict[str, _Stage] = {}
        self._next_update: dict[str, float] = {}
        self._lock = threading.Lock()

    def __call__(self, stage: str, done: int, total: int | None, note: str = "") -> None:
        complete = bool(total) and done >= (total or 0)
        with self._lock:
            if stage not in self._tasks:
                self._tasks[stage] = self.progress.add_task(stage, total=total or None, status="")
            state = self._stages.setdefault(stage, _Stage(done, self._unit))
            now = time.monotonic()
            # Work may report every single item.
            if now < self._next_update.get(stage, 0.0) and not complete:
                return
            self._next_update[stage] = now + _UPDATE_S
            if complete:
                # Another model may go through the same stage.
                del self._stages[stage]
            self.progress.update(
                self._tasks[stage],
                completed=done,
                total=total or None,
                status=state.status(done, total, note),
            )
