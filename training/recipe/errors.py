"""Errors of recipes."""

from __future__ import annotations

from service.runtime.errors import UserError


class RecipeError(UserError):
    """The recipe cannot be used. The message is a single line."""
