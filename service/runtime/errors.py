"""The base class of errors that are shown to users."""

from __future__ import annotations

from typing import ClassVar

# Enough for a cause; errors of libraries can contain a whole document.
_MAX_LINE = 200


class UserError(Exception):
    """An error that the user can fix. The message is one line: what is wrong and what to do.

    The `ganymede` command prints it and exits with `exit_code`: 2 for invalid input, 1 for work
    that failed.
    """

    exit_code: ClassVar[int] = 2
    # Printed before the message.
    label: ClassVar[str] = "Error: "
    # Printed below the message: what to do, if it takes several lines.
    advice: str = ""


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, shortened, or its type without a message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:_MAX_LINE] if lines else type(error).__name__
