"""Log lines on standard output: JSON for machines, text for people.

Lines that are logged while a request is handled contain the id of the request.

The line of each request is written by `info_soon`, which takes a third of the time of a logger's
`info`: most of the rest is writing, which is done once for all requests that end together.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, Literal, TextIO

LogFormat = Literal["json", "text"]

# Fields that are added to every line logged for the current request.
context: ContextVar[Mapping[str, str] | None] = ContextVar("ganymede_log_context", default=None)

# Created once: `json.dumps` creates an encoder for every call with options.
_to_json = json.JSONEncoder(default=str, separators=(",", ":")).encode

_ESCAPES = {code: f"\\x{code:02x}" for code in [*range(32), *range(127, 160), 0x2028, 0x2029]}


def configure(log_format: LogFormat | None, stream: TextIO | None = None) -> None:
    """Send all log lines and warnings to `stream` (default: standard output).

    If `log_format` is None, the format is text on a terminal and JSON otherwise.
    """
    global _lines  # noqa: PLW0603 - one process, one log
    stream = stream or sys.stdout
    if log_format is None:
        log_format = "text" if stream.isatty() else "json"
    formatter = JsonFormatter() if log_format == "json" else TextFormatter()
    _lines = _LineHandler(stream, formatter)
    logging.captureWarnings(True)
    root = logging.getLogger()
    root.handlers = [_lines]
    root.setLevel(logging.WARNING)
    logging.getLogger("ganymede").setLevel(logging.INFO)


def info_soon(logger: logging.Logger, message: str, fields: Mapping[str, Any]) -> None:
    """Log an INFO line with `fields`, which is written at the end of the event loop's iteration.

    A process that is killed loses the lines of one iteration, a few milliseconds.
    """
    if _lines is None:
        logger.info(message, extra={"fields": fields})
    elif logger.isEnabledFor(logging.INFO):
        _lines.write_soon(logger.name, message, {**(context.get() or {}), **fields})


class _LineHandler(logging.StreamHandler[TextIO]):
    """Writes records at once, and other lines together."""

    def __init__(self, stream: TextIO, formatter: JsonFormatter | TextFormatter) -> None:
        super().__init__(stream)
        self.setFormatter(formatter)
        self._line = formatter.line
        self._lock = threading.RLock()
        # Lines that are not written yet.
        self._waiting: list[str] = []

    def write_soon(self, logger: str, message: str, fields: Mapping[str, Any]) -> None:
        """Write an INFO line at the end of this iteration of the event loop."""
        with self._lock:
            self._waiting.append(self._line(time.time(), "INFO", logger, message, fields))
            is_first = len(self._waiting) == 1
        if is_first:
            asyncio.get_running_loop().call_soon(self.flush)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, after the lines that wait."""
        if self._waiting:
            self.flush()
        super().emit(record)

    def flush(self) -> None:
        """Write the lines that wait. Errors are reported as those of records, and not raised."""
        lines: list[str] = []
        try:
            with self._lock:
                lines, self._waiting = self._waiting, []
                if lines:
                    self.stream.write("\n".join([*lines, ""]))
            super().flush()
        except (OSError, ValueError):
            # The disk is full, or the stream is closed.
            self.handleError(logging.makeLogRecord({"msg": "\n".join(lines[:1])}))


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, and the fields of the line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        fields = _fields(record)
        if exception := _exception(record):
            fields = {**fields, "exception": exception}
        return self.line(record.created, record.levelname, record.name, record.getMessage(), fields)

    def line(
        self, seconds: float, level: str, logger: str, message: str, fields: Mapping[str, Any]
    ) -> str:
        """Return a line; `seconds` is its Unix time."""
        return _to_json(
            {
                "time": _time(seconds),
                "level": level,
                "logger": logger,
                "message": message,
                **fields,
            }
        )


class TextFormatter(logging.Formatter):
    """A readable line with its fields as `name=value`; a stack trace follows on separate lines."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        line = self.line(
            record.created, record.levelname, record.name, record.getMessage(), _fields(record)
        )
        exception = _exception(record)
        return f"{line}\n{exception}" if exception else line

    def line(
        self, seconds: float, level: str, logger: str, message: str, fields: Mapping[str, Any]
    ) -> str:
        """Return a line; `seconds` is its Unix time.

        Control characters are escaped, so that no value can forge a line.
        """
        text = "".join(f" {name}={value}" for name, value in fields.items())
        line = f"{_time(seconds)} {level} {logger}: {message}{text}"
        return line if line.isprintable() else line.translate(_ESCAPES)


def _time(seconds: float) -> str:
    whole, milliseconds = divmod(int(seconds * 1000), 1000)
    return f"{_second(whole)}.{milliseconds:03d}Z"


@lru_cache(maxsize=4)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    return {**(context.get() or {}), **getattr(record, "fields", {})}


def _exception(record: logging.LogRecord) -> str:
    if not record.exc_info or record.exc_info[0] is None:
        return ""
    return "".join(traceback.format_exception(*record.exc_info)).rstrip()


# Of this process; None before `configure`.
_lines: _LineHandler | None = None
