"""The error of evaluations."""

from __future__ import annotations

from service.runtime.errors import UserError


class QualityError(UserError):
    """A metric cannot be measured; the message says what is missing."""
