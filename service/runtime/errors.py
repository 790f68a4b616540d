"""The base of the errors that are for the user to read."""

from __future__ import annotations

from typing import ClassVar


class UserError(Exception):
    """Something is wrong that the user can mend. The message is one line that says what and how.

    The `ganymede` command prints it and exits with `exit_code`: 2 for input that cannot be used,
    1 for work that was tried and failed.
    """

    exit_code: ClassVar[int] = 2
    # What the command puts before the message.
    label: ClassVar[str] = "Error: "
