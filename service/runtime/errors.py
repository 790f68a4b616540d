"""The base class of errors that are shown to users."""

from __future__ import annotations

from typing import ClassVar


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
    """Return the first line of an error's message, or its type if it has no message."""
    return (str(error).splitlines() or [type(error).__name__])[0]
