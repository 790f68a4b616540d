"""The progress of a run on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
)
from rich.text import Text

from service.runtime.formatting import duration
from service.runtime.progress import is_terminal

_SHORT_NAMES = {
    "loss_discriminator": "loss D",
    "loss_generator": "loss G",
    "real_score": "D(x)",
    "fake_score": "D(G(z))",
    "augment_probability": "augment p",
    "discriminator_steps": "D steps",
}
# Metrics that are written to the log and TensorBoard only, to keep the line short.
_NOT_SHOWN = {"separation", "gradient_generator", "gradient_discriminator"}


class Display(Protocol):
    """Shows the progress of a run."""

    def advance(self, images: int) -> None:
        """Show how many images have been seen."""

    def report(self, images: int, rate: float, metrics: Mapping[str, float], state: str) -> None:
        """Show the mean metrics of an interval, the rate in images/s, and the state of the run."""

    def say(self, line: str) -> None:
        """Show a line of text."""


class NoDisplay:
    """Shows nothing. Used in all processes except the main process."""

    def advance(self, images: int) -> None: ...

    def report(
        self, images: int, rate: float, metrics: Mapping[str, float], state: str
    ) -> None: ...

    def say(self, line: str) -> None: ...


class _Rate(ProgressColumn):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self._kind = kind

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:,.0f} {self._kind}/s")


class _TimeLeft(ProgressColumn):
    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        seconds = task.time_remaining
        return Text("ETA -" if seconds is None else f"ETA {duration(seconds)}")


class TerminalDisplay:
    """A progress bar on a terminal; one line per interval if the output is a file."""

    def __init__(
        self, console: Console, progress: Progress, total: int, kind: str, *, on_terminal: bool
    ) -> None:
        self._console, self._progress, self._total = console, progress, total
        self._kind = kind
        self._on_terminal = on_terminal
        self._task = progress.add_task("training", total=total, metrics="")

    def advance(self, images: int) -> None:
        self._progress.update(self._task, completed=images)

    def report(self, images: int, rate: float, metrics: Mapping[str, float], state: str) -> None:
        shown = {name: value for name, value in metrics.items() if name not in _NOT_SHOWN}
        text = "  ".join(
            f"{_SHORT_NAMES.get(name, name)} {value:.3f}" for name, value in shown.items()
        )
        text += f"  {state}"
        self._progress.update(self._task, metrics=text)
        if not self._on_terminal:
            left = duration((self._total - images) / rate) if rate else "-"
            self.say(
                f"{images:,}/{self._total:,} {self._kind}  "
                f"{rate:,.{0 if rate >= 10 else 1}f} {self._kind}/s  ETA {left}  {text}"
            )

    def say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def display(total: int, start: int, kind: str = "images") -> Iterator[TerminalDisplay]:
    """Show the progress of a run of `total` images that starts or resumes at `start`.

    `kind` is what the data are, in plural.
    """
    on_terminal = is_terminal(sys.stderr)
    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        BarColumn(24),
        MofNCompleteColumn(),
        _Rate(kind),
        _TimeLeft(),
        TextColumn("{task.fields[metrics]}", markup=False),
    )
    with Progress(*columns, console=console, disable=not on_terminal) as progress:
        shown = TerminalDisplay(console, progress, total, kind, on_terminal=on_terminal)
        shown.advance(start)
        yield shown
