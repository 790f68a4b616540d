"""Errors of the export."""

from __future__ import annotations

from service.runtime.errors import UserError


class ExportError(UserError):
    """The model cannot be exported, or its graph differs from the network. Nothing is written."""

    exit_code = 1
