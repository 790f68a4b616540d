"""Errors of evaluations."""

from __future__ import annotations

from service.runtime.errors import UserError


class QualityError(UserError):
    """A metric cannot be measured. The message states the reason."""
