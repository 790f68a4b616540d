"""Errors of fine-tuning."""

from __future__ import annotations

from service.runtime.errors import UserError


class FineTuningError(UserError):
    """The weights cannot be used to start a training. The message is a single line."""
