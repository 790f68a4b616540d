"""Errors of the export."""

from __future__ import annotations

from service.runtime.errors import UserError


class ExportError(UserError):
    """The model cannot be exported, or the graph's outputs differ from the network's."""

    exit_code = 1
