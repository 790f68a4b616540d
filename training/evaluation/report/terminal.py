"""Prints results to the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from training.data.findings import printable
from training.evaluation.report.document import Note, Section, Table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text


def console() -> Console:
    """Return the console of standard output."""
    from rich.console import Console  # noqa: PLC0415 - slow to import

    return Console()


def print_section(section: Section) -> None:
    """Print the title, the notes and the tables of a section."""
    from rich.table import Table as RichTable  # noqa: PLC0415

    screen = console()
    screen.print(printable(section.title), style="bold", markup=False, soft_wrap=True)
    for part in section.parts:
        if isinstance(part, Note):
            screen.print(printable(str(part)), highlight=False, markup=False, soft_wrap=True)
        elif isinstance(part, Table):
            columns = slice(part.terminal_columns)
            table = RichTable(box=None)
            for title in part.head[columns]:
                table.add_column(_plain(title))
            for row in part.rows:
                table.add_row(*map(_plain, row[columns]))
            screen.print(table)


def _plain(cell: str) -> Text:
    from rich.text import Text  # noqa: PLC0415

    # A text, because names of classes may look like markup.
    return Text(printable(cell))


def print_line(text: str) -> None:
    """Print a line without wrapping it."""
    console().print(printable(text), markup=False, soft_wrap=True)
