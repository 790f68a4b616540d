"""Errors of directions."""

from __future__ import annotations

from service.runtime.errors import UserError


class DirectionsError(UserError):
    """Directions cannot be found or changed as requested. The message states the reason."""
