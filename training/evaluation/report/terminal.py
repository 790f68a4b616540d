"""What figures are shown on: a console, and bars for long work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from training.evaluation.features.references import Progress


def console() -> Console:
    """Return the terminal that answers go to."""
    from rich.console import Console  # noqa: PLC0415 - slow to import

    return Console()


@contextmanager
def progress() -> Iterator[Progress]:
    """Show what is being done on the terminal, a bar for each stage."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress as Bar  # noqa: PLC0415

    with Bar(console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage)
            bar.update(tasks[stage], completed=done, total=total)

        yield show
