"""What a check finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """How bad a finding is: with an error, `ganymede serve` or a model fails."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class Finding:
    """One result: what was found and, unless that is fine, what to do about it."""

    check: str
    status: Status
    text: str
    # One line; empty if there is nothing to do.
    advice: str = ""
    # The numbers and names in `text`, for programs.
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the finding as JSON values."""
        return {
            "check": self.check,
            "status": self.status.value,
            "text": self.text,
            "advice": self.advice or None,
            "details": dict(self.details),
        }


def fine(check: str, text: str, **details: Any) -> Finding:
    """Return a finding that needs no attention."""
    return Finding(check, Status.OK, text, details=details)


def warning(check: str, text: str, advice: str, **details: Any) -> Finding:
    """Return a finding that may cause trouble later, or makes something slower."""
    return Finding(check, Status.WARNING, text, advice, details)


def error(check: str, text: str, advice: str, **details: Any) -> Finding:
    """Return a finding because of which something does not work."""
    return Finding(check, Status.ERROR, text, advice, details)
