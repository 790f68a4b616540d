"""What the user sees while a run goes on."""

from __future__ import annotations

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
    TimeRemainingColumn,
)
from rich.text import Text

SHORT = {
    "loss_discriminator": "loss D",
    "loss_generator": "loss G",
    "real_score": "D(x)",
    "fake_score": "D(G(z))",
    "augment_probability": "augment p",
    "discriminator_steps": "D steps",
}
# These are for the log and TensorBoard; a line has no room for everything.
NOT_SHOWN = {"separation", "gradient_generator", "gradient_discriminator"}


class Display(Protocol):
    """Takes the news of a run."""

    def advance(self, images: int) -> None:
        """So many images have been seen."""

    def report(self, images: int, rate: float, signs: Mapping[str, float], state: str) -> None:
        """The means of an interval are known; `rate` is in images per second, `state` in words."""

    def say(self, line: str) -> None:
        """Something worth a line happened."""


class Silence:
    """A display for the processes that do not lead."""

    def advance(self, images: int) -> None: ...

    def report(self, images: int, rate: float, signs: Mapping[str, float], state: str) -> None: ...

    def say(self, line: str) -> None: ...


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:,.0f} images/s")


class TerminalDisplay:
    """A bar that moves on a terminal; a line an interval where the output is a file."""

    def __init__(self, console: Console, progress: Progress, total: int) -> None:
        self._console, self._progress, self._total = console, progress, total
        self._task = progress.add_task("training", total=total, signs="")

    def advance(self, images: int) -> None:
        self._progress.update(self._task, completed=images)

    def report(self, images: int, rate: float, signs: Mapping[str, float], state: str) -> None:
        shown = {name: value for name, value in signs.items() if name not in NOT_SHOWN}
        text = "  ".join(f"{SHORT.get(name, name)} {value:.3f}" for name, value in shown.items())
        text += f"  {state}"
        self._progress.update(self._task, signs=text)
        if not self._console.is_terminal:
            left = (self._total - images) / rate if rate else 0
            minutes, seconds = divmod(round(left), 60)
            self.say(
                f"{images:,}/{self._total:,} images  {rate:,.0f} images/s  "
                f"ETA {minutes}:{seconds:02}  {text}"
            )

    def say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def display(total: int, start: int) -> Iterator[TerminalDisplay]:
    """Show a run of `total` images that begins, or goes on, at `start`."""
    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        BarColumn(24),
        MofNCompleteColumn(),
        _Rate(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[signs]}", markup=False),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        shown = TerminalDisplay(console, progress, total)
        shown.advance(start)
        yield shown
