"""What keeps a figure from being measured."""

from __future__ import annotations

from service.runtime.errors import UserError


class QualityError(UserError):
    """A figure cannot be measured; the message says what it would need."""
