"""What can be wrong with a file to be imported."""

from __future__ import annotations

from service.runtime.errors import UserError


def one_line(error: Exception) -> str:
    """Return the first line of what a library's error says: the others are for its authors."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0].strip()[:200] if lines else type(error).__name__


class ImportFailed(UserError):
    """The file cannot be imported; nothing was written."""


class Refused(ImportFailed):
    """The file would have to be executed to be read, which is never done."""


class Unsuitable(Exception):
    """The tensors are not of a format, for a reason that `--explain` shows."""


class Unsaid(ImportFailed):
    """Something that no tensor tells, and that a flag has to say."""


# What tensors lead to that have the names of a format and not its shapes.
MISFITS = (KeyError, IndexError, RuntimeError, ValueError, ArithmeticError)
