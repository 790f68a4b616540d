"""Log lines on standard output: JSON for machines, text for people.

Lines that are logged while a request is handled contain the id of the request.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

LogFormat = Literal["json", "text"]

# Fields that are added to every line logged for the current request.
context: ContextVar[Mapping[str, str] | None] = ContextVar("ganymede_log_context", default=None)

_ESCAPES = {code: f"\\x{code:02x}" for code in [*range(32), *range(127, 160), 0x2028, 0x2029]}


def configure(log_format: LogFormat | None, stream: TextIO | None = None) -> None:
    """Send all log lines and warnings to `stream` (default: standard output).

    If `log_format` is None, the format is text on a terminal and JSON otherwise.
    """
    stream = stream or sys.stdout
    handler = logging.StreamHandler(stream)
    if log_format is None:
        log_format = "text" if stream.isatty() else "json"
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.captureWarnings(True)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("ganymede").setLevel(logging.INFO)


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, and the fields of the line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if exception := _exception(record):
            line["exception"] = exception
        return json.dumps(line, default=str, separators=(",", ":"))


class TextFormatter(logging.Formatter):
    """A readable line with its fields as `name=value`; a stack trace follows on separate lines."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line. Control characters are escaped, so that no value can forge a line."""
        fields = "".join(f" {name}={value}" for name, value in _fields(record).items())
        line = f"{_time(record)} {record.levelname} {record.name}: {record.getMessage()}{fields}"
        if not line.isprintable():
            line = line.translate(_ESCAPES)
        exception = _exception(record)
        return f"{line}\n{exception}" if exception else line


def _time(record: logging.LogRecord) -> str:
    timestamp = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    return timestamp.replace("+00:00", "Z")


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    return {**(context.get() or {}), **getattr(record, "fields", {})}


def _exception(record: logging.LogRecord) -> str:
    if not record.exc_info or record.exc_info[0] is None:
        return ""
    return "".join(traceback.format_exception(*record.exc_info)).rstrip()
